package env_test

import (
	"context"
	"fmt"

	"github.com/sethvargo/go-envconfig"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
	"github.com/penstock-go/penstock/stream/env"
)

func ExampleProcessFrom() {
	variables := envconfig.MapLookuper(map[string]string{
		"PENSTOCK_MAX_JOBS":    "0",
		"PENSTOCK_JOB_TIMEOUT": "off",
		"PENSTOCK_KEEP_RESULT": "0",
		"PENSTOCK_MAX_LEN":     "1e6",
	})
	var (
		worker consumer.Config
		orders stream.Config
	)
	err := env.ProcessFrom(context.Background(), variables, &worker, &orders)
	fmt.Println(err)
	fmt.Println(worker.Timeout == consumer.None)
	// Output:
	// 3 settings are wrong
	//   PENSTOCK_MAX_JOBS     0    must be at least 1
	//   PENSTOCK_KEEP_RESULT  0    ambiguous: write "off" to keep no results
	//   PENSTOCK_MAX_LEN      1e6  must be a whole number
	// true
}
