package main

import (
	"testing"

	"handover.example/sessions/examples/frameworks/internal/webtest"
)

func TestProgram(t *testing.T) { webtest.Run(t, handler) }
