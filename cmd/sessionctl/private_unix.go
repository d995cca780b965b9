//go:build unix

package main

import (
	"os"
	"syscall"
)

// exposed reports whether other users of this machine may read or change a file, as ssh asks of a private key. Like ssh,
// it does not ask that of a file of another user, such as one that Kubernetes has mounted: this user cannot change it.
func exposed(info os.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 && int(stat.Uid) == os.Getuid()
}
