package main

import (
	"os"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/penstock-go/penstock/cmd/penstock/redisproc/redistest"
)

// asProgram makes a process of this test's binary one of penstock.
const asProgram = "PENSTOCK_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		os.Exit(run())
	}
	redis.SetLogger(quiet{})
	redistest.Main(m)
}
