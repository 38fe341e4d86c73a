package engine

import "fmt"

// Found is what GetCall found of a job.
type Found struct {
	Missed    []string // groups that were not asked about, with all others: ask again; nothing else is known
	Now       int64    // Redis's clock, ms
	Events    bool
	Job       FoundJob // in the stream itself
	Due       int64    // when it is scheduled: ms; 0: it is not
	Scheduled FoundJob
	Record    string
	Progress  string // what its handler said last
	Groups    []FoundIn
}

// FoundIn is what there is of a job in one group.
type FoundIn struct {
	Group    string
	Position string // last entry of the stream that the group was given; "": not known
	Place    string // where it is, as the ids hash has it; "" nowhere
	Due      int64  // when it is parked: ms
	Job      FoundJob
	Owner    string // who has it; "": nobody
	Record   string // of an events stream's group
	Row      string // what its owner's last heartbeat said
	Progress string // of an events stream's group: what its handler said last
}

// FoundJob is a job without its data.
type FoundJob struct {
	There                          bool
	Entry, Type, Traceparent, Opts string
	Info                           string // of a dead letter
}

// GetCall looks a job up in all places where it can be, in groups, which must be all that the stream has or has had.
func GetCall(k Keys, id string, groups []string) Call {
	keys := make([]string, 0, 8+8*len(groups))
	own := k.Group("", false)
	keys = append(keys, k.Stream, k.Config, k.IDs, k.Scheduled, k.ScheduledJobs, k.Job(id), own.Workers, own.Report(id))
	entry := ""
	if IsEntryID(id) {
		entry = id
	}
	args := make([]any, 0, 2+len(groups))
	args = append(args, id, entry)
	for _, group := range groups {
		g := k.Group(group, true)
		keys = append(keys, g.Redelivery, g.Suspects, g.Retrying, g.RetryingJobs, g.Dead, g.IDs, g.Job(id), g.Report(id))
		args = append(args, group)
	}
	return Call{getScript, keys, args}
}

// ReadFound decodes what GetCall answers.
func ReadFound(v any) (Found, error) {
	list, _ := v.([]any)
	if len(list) > 0 && list[0] == "groups" {
		return Found{Missed: texts(list[1:])}, nil
	}
	if len(list) < 7 {
		return Found{}, fmt.Errorf("unexpected answer %v", v)
	}
	f := Found{Now: number(list[0]), Events: list[1] == "events", Job: readJob(list[2]), Due: score(list[3]), Scheduled: readJob(list[4])}
	f.Record, _ = list[5].(string)
	f.Progress, _ = list[6].(string)
	for _, item := range list[7:] {
		text := func(i int) string { s, _ := at(item, i).(string); return s }
		in := FoundIn{Group: text(0), Position: text(1), Place: text(2), Due: score(at(item, 3)), Job: readJob(at(item, 4)), Record: text(6), Row: text(7), Progress: text(8)}
		in.Owner, _ = at(at(item, 5), 0).(string)
		f.Groups = append(f.Groups, in)
	}
	return f, nil
}

func readJob(v any) FoundJob {
	t := texts(v)
	if len(t) != 5 {
		return FoundJob{}
	}
	return FoundJob{true, t[0], t[1], t[2], t[3], t[4]}
}
