// Package interop runs package mls in groups with other implementations of RFC
// 9420: ts-mls and Wire's core-crypto, which Node runs as programs of their own.
// It has tests alone. They need node (20 or newer) and npm, which fetches what
// peers/package-lock.json names into the user's cache.
//
// The drivers in peers/ read operations as JSON lines and answer in kind. They
// are ours; core-crypto is under the GPL-3.0, and nothing here contains or links
// it.
//
// Both peers and mls know cipher suites 1, 2, 3, 5 and 7. In groups created by
// either side they join by Welcome and by external commit, add, remove, renew
// keys, commit each other's proposals, and read each other's messages; after
// each commit all have one exported secret, and one epoch authenticator where
// the peer tells it. core-crypto has no calls for proposals, PSKs, encrypted
// handshakes or trees apart from the Welcome: only ts-mls is tested with those.
//
// # Where ts-mls 1.6.4 departs from RFC 9420
//
// A test for each in faults_test.go fails once it no longer does.
//
//   - §5.1.1: it writes ECDSA public keys as compressed points. mls refuses them;
//     the driver gives it keys with uncompressed ones, with which suites 2, 5 and
//     7 work.
//   - §12.4.3.2: external_pub has the key without its length. The driver adds it,
//     and takes it off where ts-mls reads; with that, external commits work both
//     ways.
//   - §12.3: a client that a commit removes, while an Add of the same commit
//     fills its leaf, believes that it stays and fails to process the commit.
//   - §12.4.3.1: it refuses to join a tree in which a node lists an unmerged leaf
//     that a node above it doesn't, as happens when the one above was renewed.
//   - §12.1.8.1: it reads external_senders as one sender, not as a list.
//
// # What core-crypto 10.3.0 chooses
//
// These aren't faults: RFC 9420 leaves them to applications.
//
//   - It takes handshakes as PublicMessage alone (§6).
//   - Its groups require members that know X.509 credentials (§11.1). A device
//     that shall be in one lists them among its capabilities.
//   - It reads a message that a few later ones have overtaken, and no older one
//     (§9.1, §15.3).
//   - Identities in basic credentials have its own form, USER:DEVICE@DOMAIN.
package interop
