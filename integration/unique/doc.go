// Package unique tests unique keys and chosen IDs on a real Redis: against a model, in every mode, with workers that lose their
// leases, die and repeat themselves; and whether what many publishers of one key see at the same time could have come one after
// the other (porcupine).
package unique
