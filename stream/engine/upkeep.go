package engine

import (
	"fmt"
	"time"
)

// SurveyCall asks how a stream and those of its groups stand that are named. Who says in whose name upkeep is done, which
// keeps others from it for as long as hold; "" only looks. Force does it though somebody else has.
func SurveyCall(k Keys, who string, hold time.Duration, force bool, groups []string) Call {
	keys := []string{k.Stream, k.Config, k.IDs, k.Group("", false).Workers, k.Upkeep}
	args := []any{who, hold.Milliseconds(), flag(force)}
	for _, group := range groups {
		g := k.Group(group, false)
		keys, args = append(keys, g.Redelivery, g.Suspects, g.Dead), append(args, group)
	}
	return Call{surveyScript, keys, args}
}

// Survey is how a stream stands. IDs of entries are "" where there is none.
type Survey struct {
	Shut      time.Duration // somebody else does upkeep, for that long: nothing else is known
	Unknown   []string      // groups that the call did not name are among these: ask again, for all of them
	Now       time.Time     // Redis's clock
	Kind      string
	Retention string // as config has it
	Entries   int64
	First     string            // entry
	IDs       int64             // fields of ids
	Workers   map[string]string // rows of the hash of workers
	Groups    []SurveyGroup
}

// SurveyGroup is how one group of a stream stands.
type SurveyGroup struct {
	Name      string
	Ours      bool   // config knows it
	There     bool   // the stream has it; else somebody destroyed it, and a worker would make it again
	Position  string // up to where it has read; of one that is not there, as config knows it
	Floor     string // of a queue's
	Pending   int64  // in the stream
	Oldest    string // the first of them
	Unread    string // the first in the stream that it has not read
	Returned  int64  // pending in redelivery and suspects
	Waiting   string // the first in redelivery that it has not read
	Suspect   string // the same in suspects
	FirstDead string
}

// ReadSurvey decodes what SurveyCall answers.
func ReadSurvey(v any) (Survey, error) {
	list, _ := v.([]any)
	if len(list) < 2 {
		return Survey{}, fmt.Errorf("unexpected answer %v", v)
	}
	switch list[0] {
	case "shut":
		return Survey{Shut: max(time.Duration(number(list[1]))*time.Millisecond, time.Millisecond)}, nil
	case "groups":
		return Survey{Unknown: texts(list[1:])}, nil
	}
	if len(list) < 7 {
		return Survey{}, fmt.Errorf("unexpected answer %v", v)
	}
	s := Survey{Now: millisOf(list[0]), Entries: number(list[3]), IDs: number(list[5]), Workers: make(map[string]string)}
	s.Kind, _ = list[1].(string)
	s.Retention, _ = list[2].(string)
	s.First, _ = list[4].(string)
	rows := texts(list[6])
	for i := 0; i+1 < len(rows); i += 2 {
		s.Workers[rows[i]] = rows[i+1]
	}
	for _, row := range list[7:] {
		text := texts(row)
		if len(text) != 12 {
			return Survey{}, fmt.Errorf("unexpected group %v", row)
		}
		s.Groups = append(s.Groups, SurveyGroup{
			Name: text[0], Ours: number(at(row, 1)) == 1, There: number(at(row, 2)) == 1, Position: text[3], Floor: text[4],
			Pending: number(at(row, 5)), Oldest: text[6], Unread: text[7],
			Returned: number(at(row, 8)), Waiting: text[9], Suspect: text[10], FirstDead: text[11],
		})
	}
	return s, nil
}

// TrimCall deletes about most entries of an events stream that all groups have acknowledged, and that are older than the
// retention and than least. It answers how many these were; 0: no more may go now.
func TrimCall(k Keys, most int, least time.Duration) Call {
	return Call{trimScript, []string{k.Stream, k.Config}, []any{most, least.Milliseconds()}}
}

// StaleCall looks at about count fields of a stream's ids, from cursor on. On an events stream it deletes those of entries
// that are gone and older than age.
func StaleCall(k Keys, cursor string, count int, age time.Duration, groups []string) Call {
	return staleCall(k, k.IDs, cursor, count, fmt.Sprint(age.Milliseconds()), groups)
}

// StaleGroupCall does the same with the ids that a group of an events stream has for itself.
func StaleGroupCall(k Keys, group, cursor string, count int) Call {
	return staleCall(k, k.Group(group, true).IDs, cursor, count, "", []string{group})
}

func staleCall(k Keys, ids, cursor string, count int, age string, groups []string) Call {
	keys := []string{ids, k.Stream, k.Config, k.Scheduled, k.ScheduledJobs}
	for _, group := range groups {
		g := k.Group(group, false)
		keys = append(keys, g.Redelivery, g.Suspects, g.Dead, g.Retrying, g.RetryingJobs)
	}
	return Call{staleScript, keys, []any{cursor, count, age}}
}

// Stale is what StaleCall answers.
type Stale struct {
	Cursor  string // where to go on; "0": that was all
	Looked  int64
	Deleted int64
	Suspect []StaleID // FreeCall says whether they are gone
}

// StaleID is a job that is not where ids says.
type StaleID struct{ ID, Where string }

// ReadStale decodes what StaleCall answers.
func ReadStale(v any) (Stale, error) {
	list, _ := v.([]any)
	if len(list) != 4 {
		return Stale{}, fmt.Errorf("unexpected answer %v", v)
	}
	s := Stale{Looked: number(list[1]), Deleted: number(list[2])}
	s.Cursor, _ = list[0].(string)
	pairs := texts(list[3])
	for i := 0; i+1 < len(pairs); i += 2 {
		s.Suspect = append(s.Suspect, StaleID{pairs[i], pairs[i+1]})
	}
	return s, nil
}

// FreeGroupCall is FreeCall for the ids that a group of an events stream has for itself.
func FreeGroupCall(k Keys, group, id, where string, groups []string) Call {
	c := FreeCall(k, id, where, groups)
	g := k.Group(group, true)
	c.Keys[0], c.Keys[4] = g.IDs, g.Job(id)
	return c
}
