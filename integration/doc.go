// Package integration holds what tests Penstock from outside: as a user's
// program, as processes that are killed, on every kind of server. It is a
// module of its own, so that what it needs is no dependency of the product.
package integration
