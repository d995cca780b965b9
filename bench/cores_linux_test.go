package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOneCore(t *testing.T) {
	s := newTestSuite(t)
	var before unix.CPUSet
	check(unix.SchedGetaffinity(0, &before))
	cores := func(thread int) (set unix.CPUSet) {
		check(unix.SchedGetaffinity(thread, &set))
		return set
	}
	all := func(pid int) (sets []unix.CPUSet) {
		for _, e := range must(os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))) {
			var set unix.CPUSet
			if unix.SchedGetaffinity(must(strconv.Atoi(e.Name())), &set) == nil {
				sets = append(sets, set)
			}
		}
		return sets
	}
	release, err := oneCore(s.server.pid())
	check(err)
	here := cores(0)
	if here.Count() != 1 {
		t.Errorf("this thread may run on %d cores", here.Count())
	}
	for _, pid := range []int{os.Getpid(), s.server.pid()} {
		for _, set := range all(pid) {
			if set != here {
				t.Errorf("a thread of %d may run on %v, and this one on %v", pid, set, here)
			}
		}
	}
	fresh := make(chan unix.CPUSet)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		fresh <- cores(0)
	}()
	if got := <-fresh; got != here {
		t.Errorf("another thread may run on %v", got)
	}
	release()
	for _, pid := range []int{os.Getpid(), s.server.pid()} {
		for _, set := range all(pid) {
			if set != before {
				t.Errorf("after the release a thread of %d may run on %v, and before on %v", pid, set, before)
			}
		}
	}
	if release, err := oneCore(1 << 30); err == nil {
		release()
		t.Error("a program that does not exist was kept on a core")
	}
	if got := cores(0); got != before {
		t.Errorf("after an error this thread may run on %v", got)
	}
}
