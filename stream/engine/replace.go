package engine

// ReplaceCall changes what a field of a hash, as SchedulesKey is one, holds: from old to now, if it is old. "" stands for no field.
func ReplaceCall(hash, field, old, now string) Call {
	return Call{replaceScript, []string{hash}, []any{field, old, now, CronChannel, field}}
}

// Replaced decodes what ReplaceCall answers: false when the field has changed meanwhile.
func Replaced(v any) bool { return v == int64(1) }
