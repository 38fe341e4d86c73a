// Package jobs is what the shop's web service and its worker share: the names
// of its jobs and what is in them.
package jobs

import "github.com/penstock-go/penstock/stream"

// Paid is the payload of OrderPaid.
type Paid struct {
	Order int64 `json:"order"`
	Cents int64 `json:"cents"`
}

// OrderPaid says that an order was paid, and that its invoice is to be written.
var OrderPaid = stream.Type[Paid]{Name: "order.paid"}
