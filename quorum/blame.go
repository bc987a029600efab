package quorum

import "fmt"

// Fault convicts a keyholder: Answered is what it said for an encapsulation
// E = e·G, Right is e·Y_i, which is all it could rightly say, and Proof shows
// that Right is right over (G, E) and (Y_i, Right) with witness e, which it
// does not disclose. In CBOR it is the array [holder, answered, right, proof].
//
// That the keyholder answered so is for its signature on the answer to show.
// Right is a partial: t-1 keyholders who learn it have a quorum for E, so a
// Fault is not for everybody (spec/quorum.md#blame).
type Fault struct {
	_        struct{} `cbor:",toarray"`
	Holder   int
	Answered Point
	Right    Point
	Proof    DLEQ
}

// Blame names the keyholders whose answers for E are not e·Y_i, in the order of
// the answers; none where all are right. e is E's private scalar, 32 bytes,
// which the opened envelope's seed gives. An answer that is no point at all is
// as wrong as any. context ties the proofs to their use.
//
// It returns ErrScalar or ErrWitness where e is not E's, and ErrAnswers where a
// keyholder answered twice or is none of pk's.
func Blame(pk *PublicKey, E Point, e []byte, answers []Answer, context []byte) ([]Fault, error) {
	eG, err := ScalarBaseMult(e)
	if err != nil {
		return nil, err
	}
	if eG != E {
		return nil, ErrWitness
	}
	if !distinct(answers) {
		return nil, ErrAnswers
	}
	var faults []Fault
	for _, a := range answers {
		Y, err := pk.holder(a.Holder)
		if err != nil {
			return nil, err
		}
		right, err := scalarMult(Y, e)
		if err != nil {
			return nil, fmt.Errorf("verification key %d: %w", a.Holder, err)
		}
		if a.Point == right {
			continue
		}
		proof, err := prove(e, statement{Generator(), E, Y, right}, context, hedge())
		if err != nil {
			return nil, fmt.Errorf("couldn't prove the fault of keyholder %d: %w", a.Holder, err)
		}
		faults = append(faults, Fault{Holder: a.Holder, Answered: a.Point, Right: right, Proof: proof})
	}
	return faults, nil
}

// Verify checks the conviction for an encapsulation E under a key that was
// validated. It returns ErrAnswers, ErrPoint or ErrProof.
func (f *Fault) Verify(pk *PublicKey, E Point, context []byte) error {
	Y, err := pk.holder(f.Holder)
	if err != nil {
		return err
	}
	if f.Answered == f.Right {
		return fmt.Errorf("%w: the answer is right", ErrProof)
	}
	return VerifyDLEQ(Generator(), E, Y, f.Right, context, f.Proof)
}

// VerifyAnswer checks a proof that [Share.Prove] made for an answer. It returns
// ErrAnswers, ErrPoint or ErrProof.
func (p *PublicKey) VerifyAnswer(E Point, a Answer, context []byte, proof DLEQ) error {
	Y, err := p.holder(a.Holder)
	if err != nil {
		return err
	}
	return VerifyDLEQ(Generator(), Y, E, a.Point, context, proof)
}
