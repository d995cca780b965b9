// Package movein reads and writes the sessions of other libraries, so that a program can move to package sessions while
// instances of the old program still run, and nobody is logged out.
package movein
