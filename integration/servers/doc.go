// Package servers starts Redis and Valkey servers for tests to break: one
// server, a master with a replica and Sentinels, or a Cluster.
//
// What to test is an argument: PENSTOCK_TEST_SERVERS and
// PENSTOCK_TEST_TOPOLOGIES, which [Matrix] reads. Where Docker runs, a server is
// a container of the image that its kind names; elsewhere it is a program of
// this machine. A server that is not to be had fails the test and says what to
// install; it never skips.
//
// All servers listen on 127.0.0.1 alone and stay on their ports when they are
// restarted, with their data. They end with the test that started them.
package servers
