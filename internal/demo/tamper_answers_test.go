package demo

import (
	"slices"

	"chancery/control"
	"chancery/internal/opening"
	"chancery/internal/wire"
)

// endpoints are where the holders are, those named seen through another.
func (a *attack) endpoints(list []wire.Endpoint, through map[string]func(url string) string) []wire.Endpoint {
	out := slices.Clone(list)
	for i, e := range out {
		if f := through[e.Name]; f != nil {
			out[i].URL = f(e.URL)
		}
	}
	return out
}

// answersThrough runs an opener that reaches three keyholders through others,
// so that two are left: its error names the three, each with its reason.
func (a *attack) answersThrough(change map[string]func(answer []byte) []byte) string {
	through := map[string]func(string) string{}
	for name, f := range change {
		through[name] = func(url string) string { return tamperingHolder(a.T, url, f) }
	}
	return a.opener(func(c *opening.Config) {
		c.Endpoints.Keyholders = a.endpoints(a.home.Keyholders, through)
		c.Endpoints.Guards = a.home.Guards
	})
}

// guardsThrough runs an opener that reaches guards through others.
func (a *attack) guardsThrough(change map[string]func(answer []byte) []byte) string {
	return a.opener(func(c *opening.Config) {
		c.Endpoints.Keyholders = a.home.Keyholders
		c.Endpoints.Guards = a.changedGuards(change)
	})
}

func (a *attack) changedGuards(change map[string]func(answer []byte) []byte) []wire.Endpoint {
	through := map[string]func(string) string{}
	for name, f := range change {
		through[name] = func(url string) string { return tamperingHolder(a.T, url, f) }
	}
	return a.endpoints(a.home.Guards, through)
}

// answerTamperings are changes to keyholders' answers on their way.
func answerTamperings() []tampering {
	const who = "the opener"
	keep := func(a *attack) func([]byte) []byte {
		return func(b []byte) []byte { // once in a run: it is asked for index keys, and no more
			a.kept = b
			return nil
		}
	}
	same := func(b []byte) []byte { return flipped(b) }
	return []tampering{
		{"keyholder's answer, on its way", "byte flipped", who, "keyholder-1: answer: signature does not verify", func(a *attack) string {
			return a.answersThrough(map[string]func([]byte) []byte{"keyholder-1": same, "keyholder-2": same, "keyholder-4": keep(a)})
		}},
		{"keyholder's answer, on its way", "removed", who, "keyholder-4: answer: ", func(a *attack) string {
			return a.answersThrough(map[string]func([]byte) []byte{"keyholder-1": same, "keyholder-2": same, "keyholder-4": keep(a)})
		}},
		{"keyholder's answer, on its way", "an earlier one repeated", who, "keyholder-4: couldn't open the answer", func(a *attack) string {
			return a.answersThrough(map[string]func([]byte) []byte{
				"keyholder-1": same, "keyholder-2": same, "keyholder-4": func([]byte) []byte { return a.kept },
			})
		}},
		{"keyholder's answer, on its way", "another keyholder's in its place", who, "keyholder-4: answer: signature does not verify", func(a *attack) string {
			other := make(chan []byte, 10)
			return a.answersThrough(map[string]func([]byte) []byte{
				"keyholder-1": same, "keyholder-2": same,
				"keyholder-4": func([]byte) []byte { return <-other },
				"keyholder-5": func(b []byte) []byte { other <- b; return b },
			})
		}},
		{"guard's answer, on its way", "byte flipped, of both guards", who, "no guard answered; guard-1: answer: signature does not verify; guard-2: answer: signature does not verify", func(a *attack) string {
			return a.guardsThrough(map[string]func([]byte) []byte{"guard-1": same, "guard-2": same})
		}},
		{"guard's key", "another in its place", who + ", which sets nothing aside on one guard's word", "each of the organisation's guards has to say that its tag is wrong; guard-2: answer: signature does not verify", func(a *attack) string {
			a.guard = a.turn(a.outer, "guard-1")
			a.guard.lies.Store(true)
			defer a.guard.lies.Store(false)
			return a.guardsThrough(map[string]func([]byte) []byte{"guard-2": same})
		}},
	}
}

// openWithLiars opens the request while one keyholder and one guard lie.
func (a *attack) openWithLiars() {
	a.Helper()
	a.turn(a.outer, "keyholder-2").lies.Store(true)
	result, err := a.tryOpen(a.ctx, func(c *opening.Config) {
		c.Endpoints.Keyholders = a.home.Keyholders
		c.Endpoints.Guards = a.changedGuards(map[string]func([]byte) []byte{"guard-1": func([]byte) []byte {
			answer, err := a.forge(a.ctx, a.guard, 1)
			if err != nil {
				a.Error(err)
			}
			return answer
		}})
	})
	if err != nil {
		a.Fatal(err)
	}
	if got := slices.Sorted(slices.Values(result.Faults)); !slices.Equal(got, []string{"guard-1", "keyholder-2"}) {
		a.Fatalf("%v are named for wrong answers, want guard-1 and keyholder-2; refusals %+v", got, result.Refusals)
	}
	if err := a.until(a.ctx, "the opener's last word is witnessed", func(st *control.State) bool {
		r, ok := st.Request(a.summary.Request)
		return ok && r.Opening != nil
	}); err != nil {
		a.Fatal(err)
	}
	if err := a.export(a.ctx); err != nil {
		a.Fatal(err)
	}
	if err := a.verify(a.ctx); err != nil {
		a.Fatal(err)
	}
}
