// Package cron tests that each tick of a cron schedule is published exactly once, by real `penstock scheduler` processes that
// are killed, frozen beyond their lease, and cut off by a restart of Redis and by a failover.
package cron
