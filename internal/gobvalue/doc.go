// Package gobvalue reads and writes the session values of libraries that store them with encoding/gob, without the
// Go types of those values.
//
// encoding/gob refuses a whole map if the type of one value in it is not registered in the program. [Parse] needs no
// registered types: a gob stream describes its own types, and names the Go type of each value in an interface. The
// result is a tree of [Value]s. [Value.Encode] writes such a tree as a stream that encoding/gob reads, so a value that
// nobody changed goes back as it was, even if its Go type does not exist in this program.
//
// Between the two, values are JSON: [Value.JSON] and [Value.JSONAs] write it, and [FromJSON] turns it into the Go type
// that the handlers of the other library expect. The exact type matters: if a handler asserts v.(int), an int64 is no
// better than no value. What cannot be converted exactly is an error, never another value.
//
// The package registers no type with encoding/gob. A type that the old program does not register must not get into
// its sessions: it could no longer read any value of them. encoding/gob refuses to write a type that this program does
// not register, and a program that registers what the old one does is safe from that.
//
// Errors name types and fields, but never values: they may be secret.
package gobvalue
