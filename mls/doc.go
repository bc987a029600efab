// Package mls is the secret half of MLS (RFC 9420): a member's state of a group.
// The public half is package tree, which judges each proposal and commit; a
// Delivery Service uses that one alone. spec/mls.md states the profile.
//
// A Group is made by Create, Join (from a Welcome) or JoinExternally. Process
// reads whatever the group sends; Encrypt, Propose, ProposeUpdate and Commit
// make what is sent. A commit of one's own takes effect when it comes back from
// the Delivery Service, or by Confirm.
//
// # What is kept
//
// Each key is deleted when it is used, each epoch when PastEpochs have followed
// it. Changes returns what a step changed, as records to be stored together with
// what the step sends or delivers; Restore reads them. The package itself
// touches no disk, network or clock. Its randomness comes from Config.Random,
// but for what the standard library draws itself: see package cipher.
//
// Erasing is as good as Go allows: what this package holds is overwritten; what
// the standard library copied is left to the garbage collector.
//
// # What it doesn't promise
//
// What a credential is worth, who may propose what, and how long a key package
// lives is for the application to say, through tree.Rules. A device that is set
// back to an older copy of its state can't tell: it must come back by an
// external commit.
package mls
