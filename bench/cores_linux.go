package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// oneCore keeps this program and another one on one core, until the function that it returns is called. Where one request
// is made at a time, the two never work at once; but a scheduler that puts them on two cores, now and then, adds the time
// in which a sleeping core wakes up to each command: often more than the command itself takes, and another time in each
// round.
func oneCore(other int) (release func(), err error) {
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return nil, err
	}
	core := -1
	for i := range len(before) * 64 {
		if before.IsSet(i) {
			core = i // the last: the first has most of the interrupts
		}
	}
	if core < 0 {
		return nil, errors.New("this program may run on no core")
	}
	var one unix.CPUSet
	one.Set(core)
	release = func() {
		_ = setCores(os.Getpid(), &before)
		_ = setCores(other, &before)
	}
	if err := errors.Join(setCores(os.Getpid(), &one), setCores(other, &one)); err != nil {
		release()
		return nil, err
	}
	return release, nil
}

// setCores does so for every thread of a program, until there is none left to tell: while it looks, one that is not yet
// told may start another. Those that start later have it from the one that starts them.
func setCores(pid int, want *unix.CPUSet) error {
	for told := true; told; {
		told = false
		threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return err
		}
		for _, t := range threads {
			id, err := strconv.Atoi(t.Name())
			if err != nil {
				return err
			}
			var is unix.CPUSet
			if err = unix.SchedGetaffinity(id, &is); err == nil && is != *want {
				told = true
				err = unix.SchedSetaffinity(id, want)
			}
			if err != nil && !errors.Is(err, unix.ESRCH) { // it has ended
				return err
			}
		}
	}
	return nil
}
