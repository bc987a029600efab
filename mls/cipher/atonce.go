package cipher

import (
	"math"
	"runtime"
	"sync"
)

// AtOnce calls f for the numbers below n, on all processors: what a large group
// costs is mostly keys and signatures, one for each member. It returns the error
// of the lowest number that has one; numbers above that may have been left out.
func AtOnce(n int, f func(i int) error) error {
	w := &work{n: n, f: f, failed: math.MaxInt}
	var others sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) - 1 {
		others.Go(w.do)
	}
	w.do() // a single piece of work wakes nobody
	others.Wait()
	return w.err
}

// work is what AtOnce has to do.
type work struct {
	n int
	f func(i int) error

	mu     sync.Mutex // guards what follows
	next   int
	failed int // the lowest number with an error
	err    error
}

// do takes numbers, in ascending order, until there are none. So all below one
// that fails have been taken.
func (w *work) do() {
	for {
		i, ok := w.take()
		if !ok {
			return
		}
		if err := w.f(i); err != nil {
			w.fail(i, err)
		}
	}
}

func (w *work) take() (int, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.next >= w.n || w.err != nil {
		return 0, false
	}
	w.next++
	return w.next - 1, true
}

func (w *work) fail(i int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i < w.failed {
		w.failed, w.err = i, err
	}
}
