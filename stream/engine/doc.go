// Package engine holds what stream, consumer and scheduler share: the key
// names, the wire format, and the Lua scripts, each of which is one transition
// of a job's life. It exists so that those three need not import each other,
// and gives no promise of compatibility: programs use package stream.
package engine
