package redisenv_test

import (
	"context"
	"fmt"

	"github.com/sethvargo/go-envconfig"

	"github.com/penstock-go/penstock/stream/redisenv"
)

func ExampleNewFrom() {
	variables := envconfig.MapLookuper(map[string]string{
		"REDIS_URL":    "redis+cluster://app:secret@node-1:7000,node-2:7000/3",
		"REDIS_TLS_CA": "/nowhere/ca.pem",
	})
	_, err := redisenv.NewFrom(context.Background(), variables)
	fmt.Println(err)
	// Output:
	// 2 settings are wrong
	//   REDIS_URL     redis+cluster://app:xxxxx@node-1:7000,node-2:7000/3  a cluster has no databases: leave out what follows the last '/'
	//   REDIS_TLS_CA  /nowhere/ca.pem                                      can't be read: no such file or directory
}
