package mls

import (
	"bytes"
	"fmt"

	"chancery/mls/tree"
)

// checkFormer verifies that a group which claims to continue another does so:
// after a ReInit, the very group that it announced (RFC 9420 §11.2); after a
// branch, one with nobody who isn't in the other (§11.3).
func (j *joining) checkFormer(public *tree.Group, former *Group) error {
	var claim *tree.PreSharedKeyID
	for i := range j.secrets.psks {
		id := &j.secrets.psks[i]
		if id.Type != tree.PSKResumption || id.Usage == tree.UsageApplication {
			continue
		}
		if claim != nil {
			return fmt.Errorf("a group that continues two others: %w", ErrNotAuthentic)
		}
		claim = id
	}
	switch {
	case claim == nil && former == nil:
		return nil
	case claim == nil:
		return fmt.Errorf("a group that doesn't continue the former one: %w", ErrNotAuthentic)
	case former == nil || !bytes.Equal(claim.GroupID, former.ID()):
		return fmt.Errorf("a group that continues one which wasn't given: %w", ErrNoPSK)
	case public.Context().Epoch != 1:
		return fmt.Errorf("a continued group at epoch %d: %w", public.Context().Epoch, ErrNotAuthentic)
	}
	if claim.Usage == tree.UsageBranch {
		return checkBranch(public, former)
	}
	return checkReInit(claim, public, former)
}

func checkBranch(public *tree.Group, former *Group) error {
	if public.Suite().ID() != former.suite.ID() {
		return fmt.Errorf("a branch with another cipher suite: %w", ErrNotAuthentic)
	}
	return subset(public.Tree(), former.public.Tree(), former.config.Rules)
}

func checkReInit(claim *tree.PreSharedKeyID, public *tree.Group, former *Group) error {
	announced := former.public.Ended()
	if announced == nil || claim.Epoch != former.Epoch() {
		return fmt.Errorf("a ReInit of a group that hasn't ended: %w", ErrNotAuthentic)
	}
	c := public.Context()
	if announced.Version != tree.MLS10 || announced.CipherSuite != c.CipherSuite ||
		!bytes.Equal(announced.GroupID, c.GroupID) || !announced.Extensions.Equal(c.Extensions) {
		return fmt.Errorf("another group than the ReInit announced: %w", ErrNotAuthentic)
	}
	if err := subset(public.Tree(), former.public.Tree(), former.config.Rules); err != nil {
		return err
	}
	return subset(former.public.Tree(), public.Tree(), former.config.Rules)
}

// subset verifies that each client of part is one of whole.
func subset(part, whole *tree.Tree, rules tree.Rules) error {
	clients := make(map[string]bool)
	for _, leaf := range whole.Members() {
		clients[rules.Client(leaf)] = true
	}
	delete(clients, "")
	for l, leaf := range part.Members() {
		if !clients[rules.Client(leaf)] {
			return fmt.Errorf("the client of leaf %d isn't in both groups: %w", l, ErrNotAuthentic)
		}
	}
	return nil
}
