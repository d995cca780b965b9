package main

import (
	"testing"

	"handover.example/sessions/examples/frameworks/internal/webtest"
)

func TestMain(m *testing.M) { webtest.Main(m) }

func TestProgram(t *testing.T) { webtest.Run(t, handler) }
