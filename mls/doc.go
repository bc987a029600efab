// Package mls keeps the secrets of MLS groups (RFC 9420). What is public of a
// group, and the rules for it, are in package tree; the two judge by the same
// code.
package mls
