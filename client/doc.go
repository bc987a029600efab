// Package client is the SDK: a member's device. It enrols under an invitation,
// talks in conversations that are MLS groups or, with one other member, sessions
// between devices, archives what it sends as it sends it, and checks of
// everything it receives that the archive holds the same (spec/client.md).
//
// A Device lives in a directory of its own: one file, device.db, of sealed
// values (package client/state). Every step is one durable write, made before
// anything that follows from it leaves the device: an outbox entry with the keys
// it spent before the request, a received batch with its keys and the
// queue's cursor before the next request confirms it. After a crash a device
// sends the identical bytes again. A restored copy of the directory is noticed
// by the server alone, and is no longer this device.
//
// What a device shows it has re-sealed and compared with the manifest that the
// server's receipt names. It doesn't promise that the other side of a
// conversation forgets, nor that a message outlives its last reader's device.
package client
