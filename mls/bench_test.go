package mls

import (
	"fmt"
	"testing"

	"chancery/mls/cipher"
	"chancery/mls/tree"
)

// benchSizes are the group sizes that count.
var benchSizes = []int{2, 50, 1000}

// crowd returns key packages of n clients beside a group's creator, in suite 1.
func crowd(b *testing.B, n int) (creator *member, others []*member, packages []*OwnKeyPackage, add CommitOptions) {
	b.Helper()
	s := testSuite(b, cipher.X25519AES128SHA256Ed25519)
	creator = newMember(b, s, "creator").create("crowd")
	for i := 1; i < n; i++ {
		m := newMember(b, s, fmt.Sprintf("member %d", i))
		p := m.keyPackage(tree.Extension{Type: ExtensionLastResort})
		others, packages = append(others, m), append(packages, p)
		add.Proposals = append(add.Proposals, &tree.Add{KeyPackage: p.Public})
	}
	return creator, others, packages, add
}

// fullCrowd returns the first two members of a group of n, in which some
// member has committed a path.
func fullCrowd(b *testing.B, n int) (*member, *member, *Committed) {
	b.Helper()
	creator, others, packages, add := crowd(b, n)
	c := creator.commits(add)
	for i, m := range others {
		m.Group = must(Join(m.config, packages[i], c.Welcome, nil, nil))(b)
		if i >= 1 && i >= n/64 {
			break
		}
	}
	for i, m := range others {
		if m.Group == nil {
			break
		}
		rest := []*member{creator}
		for _, x := range others[:min(len(others), n/64+1)] {
			if x.Group != nil {
				rest = append(rest, x)
			}
		}
		if i%4 == 0 {
			m.commits(CommitOptions{Path: true}, rest...)
		}
	}
	return creator, others[0], c
}

func BenchmarkAddAll(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			creator, _, _, add := crowd(b, n)
			for b.Loop() {
				must(creator.Commit(add))(b)
				b.StopTimer()
				if err := creator.Discard(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

func BenchmarkJoin(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			creator, others, packages, add := crowd(b, n)
			c := creator.commits(add)
			for b.Loop() {
				must(Join(others[0].config, packages[0], c.Welcome, nil, nil))(b)
			}
		})
	}
}

func BenchmarkCommit(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			creator, _, _ := fullCrowd(b, n)
			for b.Loop() {
				must(creator.Commit(CommitOptions{Path: true}))(b)
				must(creator.Confirm())(b)
			}
		})
	}
}

func BenchmarkProcess(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			creator, other, _ := fullCrowd(b, n)
			for b.Loop() {
				b.StopTimer()
				c := must(creator.Commit(CommitOptions{Path: true}))(b)
				must(creator.Confirm())(b)
				b.StartTimer()
				must(other.Process(c.Message))(b)
			}
		})
	}
}

func BenchmarkEncrypt(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			creator, _, _ := fullCrowd(b, n)
			for b.Loop() {
				must(creator.Encrypt(make([]byte, 1000), nil))(b)
			}
		})
	}
}

func BenchmarkDecrypt(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			creator, other, _ := fullCrowd(b, n)
			for b.Loop() {
				b.StopTimer()
				message := must(creator.Encrypt(make([]byte, 1000), nil))(b)
				b.StartTimer()
				must(other.Process(message))(b)
			}
		})
	}
}
