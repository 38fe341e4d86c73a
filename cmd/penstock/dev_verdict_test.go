package main

import (
	"bytes"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/penstock-go/penstock/consumer"
	"github.com/penstock-go/penstock/stream"
)

// goodFacts are those of a run of a thousand jobs in which all went well.
func goodFacts() devFacts {
	const jobs = 1000
	f := devFacts{jobs: jobs, kinds: make([]devTally, len(devKinds))}
	m := devMix{seed: 1, maxDelay: time.Second}
	for n := range jobs {
		j := m.job(n)
		k, t := &devKinds[j.kind], &f.kinds[j.kind]
		t.Published++
		t.Runs += int64(len(k.steps))
		if k.dies() {
			t.Failed++
			t.Dead++
		} else {
			t.Completed++
		}
		switch k.typ {
		case "card.charge", "coupon.apply":
			t.Retried += 2
		case "stock.sync":
			t.Retried++
		case "card.refund":
			t.Retried++
			t.Panics++
		case "payment.await":
			t.Snoozed++
		}
	}
	all := sumTallies(f.kinds)
	f.depths = stream.Depths{Dead: all.Dead}
	f.stats = consumer.Stats{Started: all.Runs, Completed: all.Completed, Retried: all.Retried, Snoozed: all.Snoozed, Dead: all.Dead, Panics: all.Panics}
	return f
}

func TestDevVerdict(t *testing.T) {
	t.Parallel()
	kind := func(typ string) int {
		return slices.IndexFunc(devKinds, func(k devKind) bool { return k.typ == typ })
	}
	dying, quick := kind("coupon.apply"), kind("order.placed")
	for name, c := range map[string]struct {
		spoil func(*devFacts)
		want  string // in the faults; "": it is OK
	}{
		"all is well":               {func(*devFacts) {}, ""},
		"a job not completed":       {func(f *devFacts) { f.kinds[quick].Completed--; f.stats.Completed-- }, "lost: 1 job"},
		"a job completed twice":     {func(f *devFacts) { f.kinds[quick].Completed++; f.stats.Completed++ }, "1 job more than were published"},
		"a dead letter less":        {func(f *devFacts) { f.kinds[dying].Dead-- }, "dead letters: "},
		"a dead letter too many":    {func(f *devFacts) { f.depths.Dead++ }, "as their stream is long"},
		"one waits":                 {func(f *devFacts) { f.depths.Waiting = 1 }, "waiting at the end: 1"},
		"one is active":             {func(f *devFacts) { f.depths.Active = 1 }, "active at the end: 1"},
		"one is scheduled":          {func(f *devFacts) { f.depths.Scheduled = 1 }, "scheduled at the end: 1"},
		"one is retrying":           {func(f *devFacts) { f.depths.Retrying = 1 }, "retrying at the end: 1"},
		"a run too many":            {func(f *devFacts) { f.kinds[quick].Runs++; f.stats.Started++ }, "order.placed runs: "},
		"a retry less":              {func(f *devFacts) { f.kinds[dying].Retried--; f.stats.Retried-- }, "coupon.apply retries: "},
		"a wrong end":               {func(f *devFacts) { f.kinds[dying].Completed++; f.kinds[quick].Completed-- }, "coupon.apply completed: 1"},
		"not all published":         {func(f *devFacts) { f.jobs++ }, "published: 1,000, and 1,001"},
		"Stats too high":            {func(f *devFacts) { f.stats.Completed++ }, "completed by the workers' own count"},
		"Stats of retries too low":  {func(f *devFacts) { f.stats.Retried-- }, "retries by the workers' own count"},
		"Stats of runs too low":     {func(f *devFacts) { f.stats.Started-- }, "runs by the workers' own count"},
		"a fault of a handler":      {func(f *devFacts) { f.wrong.add("ran twice at the same time") }, "ran twice at the same time"},
		"nothing could be read":     {func(f *devFacts) { f.unproven = errors.New("connection refused") }, "connection refused"},
		"a stall":                   {func(f *devFacts) { f.ended = endedStalled }, "-"},
		"Ctrl-C with --jobs":        {func(f *devFacts) { f.ended = endedByUser }, "-"},
		"Ctrl-C without":            {func(f *devFacts) { f.ended, f.jobs = endedByUser, 0 }, ""},
		"an answer that was lost":   {func(f *devFacts) { f.kinds[quick].Unsure = 1; f.jobs++ }, ""},
		"stored, its answer lost":   {func(f *devFacts) { f.kinds[quick].Unsure, f.depths.Waiting, f.ended, f.jobs = 1, 1, endedByUser, 0 }, ""},
		"Ctrl-C, and one was lost":  {func(f *devFacts) { f.kinds[quick].Published++; f.ended, f.jobs = endedByUser, 0 }, "lost: 1 job"},
		"many faults are shortened": {func(f *devFacts) { f.wrong.count = 100; f.wrong.list = make([]string, maxFaults) }, "and 80 more faults"},
	} {
		f := goodFacts()
		c.spoil(&f)
		r := f.verdict()
		all := strings.Join(r.Faults, "\n")
		switch c.want {
		case "":
			if !r.OK || all != "" {
				t.Errorf("%s: not OK: %s", name, all)
			}
		case "-":
			if r.OK || all != "" {
				t.Errorf("%s: OK %t, faults %s", name, r.OK, all)
			}
		default:
			if r.OK || !strings.Contains(all, c.want) {
				t.Errorf("%s: OK %t, faults %s, want %s", name, r.OK, all, c.want)
			}
		}
	}
}

func TestDevLedger(t *testing.T) {
	t.Parallel()
	m := devMix{seed: 1, maxDelay: time.Second}
	delivery := func(id string, attempt int, fence int64) *consumer.Delivery {
		return &consumer.Delivery{ID: id, Attempt: attempt, Fence: fence}
	}
	const plain, charge = 0, 3
	for name, c := range map[string]struct {
		do   func(l *devLedger)
		want string
	}{
		"good": {func(l *devLedger) {
			for attempt := range 3 {
				step := l.begin(charge, delivery("1-1", attempt+1, int64(attempt+1)), charge)
				l.end(charge, charge, step, false)
			}
		}, ""},
		"stopped, and run again": {func(l *devLedger) {
			l.end(charge, charge, l.begin(charge, delivery("1-1", 1, 1), charge), true)
			l.end(charge, charge, l.begin(charge, delivery("1-1", 1, 2), charge), false)
		}, ""},
		"never published": {func(l *devLedger) { l.begin(charge, delivery("1-1", 1, 1), 99) }, "never published"},
		"another kind":    {func(l *devLedger) { l.begin(plain, delivery("1-1", 1, 1), charge) }, "never published"},
		"two at a time": {func(l *devLedger) {
			l.begin(charge, delivery("1-1", 1, 1), charge)
			l.begin(charge, delivery("1-1", 2, 2), charge)
		}, "at the same time"},
		"run again": {func(l *devLedger) {
			l.end(plain, plain, l.begin(plain, delivery("1-1", 1, 1), plain), false)
			l.begin(plain, delivery("1-1", 1, 2), plain)
		}, "ran 2 times, 1 would be right"},
		"another ID": {func(l *devLedger) {
			l.end(charge, charge, l.begin(charge, delivery("1-1", 1, 1), charge), false)
			l.begin(charge, delivery("1-2", 2, 2), charge)
		}, "ran as 1-2 and is 1-1"},
		"not what was said": {func(l *devLedger) { l.begin(charge, delivery("1-1", 1, 1), charge); l.published(m.job(charge), "1-2") }, "published as 1-2"},
		"a fence that stays": {func(l *devLedger) {
			l.end(charge, charge, l.begin(charge, delivery("1-1", 1, 5), charge), false)
			l.begin(charge, delivery("1-1", 2, 5), charge)
		}, "fence 5 after 5"},
		"a wrong attempt":      {func(l *devLedger) { l.begin(charge, delivery("1-1", 2, 1), charge) }, "run 1 is called attempt 2"},
		"a refused job runs":   {func(l *devLedger) { l.begin(plain, delivery("1-1", 1, 1), plain); l.refused(m.job(plain)) }, "though its publish had failed"},
		"dead, and should not": {func(l *devLedger) { l.dead("1-1", devKinds[plain].typ, "failed", plain) }, "did not bring about"},
		"a strange letter":     {func(l *devLedger) { l.dead("1-1", "x", "failed", -1) }, "never published"},
	} {
		l := newDevLedger()
		for n := range devKinds {
			l.announce(m.job(n))
		}
		c.do(l)
		got := l.faults()
		if all := strings.Join(got.list, "\n"); (c.want == "") != (all == "") || !strings.Contains(all, c.want) {
			t.Errorf("%s: faults %q, want %q", name, all, c.want)
		}
	}
}

// TestDevUnsure: jobs whose publish had no answer count when they are seen.
func TestDevUnsure(t *testing.T) {
	t.Parallel()
	m := devMix{seed: 1, maxDelay: time.Second}
	l := newDevLedger()
	l.announce(m.job(0))
	l.unsure(m.job(0))
	if open, _ := l.open(); open != 0 {
		t.Errorf("%d jobs are open, want none: it may never come", open)
	}
	l.end(0, 0, l.begin(0, &consumer.Delivery{ID: "1-1", Attempt: 1}, 0), false)
	if _, all := l.counts(); all.Published != 1 || all.Completed != 1 || all.Unsure != 0 {
		t.Errorf("%+v", all)
	}
}

func TestDevMix(t *testing.T) {
	t.Parallel()
	shares := 0
	for _, k := range devKinds {
		shares += k.share
		for _, s := range k.steps[:len(k.steps)-1] {
			if s == stepOK || s == stepPermanent {
				t.Errorf("%s goes on after its end", k.typ)
			}
		}
		if k.failures(len(k.steps)) > devTries || k.dies() && k.steps[0] != stepPermanent && k.failures(len(k.steps)) != devTries {
			t.Errorf("%s does not end as its steps say: %d tries", k.typ, k.failures(len(k.steps)))
		}
	}
	if shares != 1000 {
		t.Errorf("the shares add up to %d", shares)
	}
	a, b := devMix{1, time.Second}, devMix{2, time.Second}
	same := 0
	for n := range 500 {
		if first, again := a.job(n), a.job(n); first != again {
			t.Fatalf("job %d differs from itself", n)
		}
		if a.job(n).order == b.job(n).order {
			same++
		}
		if n < len(devKinds) && a.job(n).kind != n {
			t.Errorf("job %d is of kind %d: a short run would not show all", n, a.job(n).kind)
		}
	}
	if same > 5 {
		t.Errorf("another seed makes %d of 500 the same", same)
	}
}

var devUnstable = []struct {
	pattern *regexp.Regexp
	text    string
}{
	{regexp.MustCompile(`(redis|valkey)-server [\d.]+`), "SERVER"},
	{regexp.MustCompile(`127\.0\.0\.1:\d+`), "ADDRESS"},
	{regexp.MustCompile(`data in \S+,`), "data in FOLDER,"},
	{regexp.MustCompile(`(?m)^ +\d+s  published [\d,]+  waiting \d+  active \d+  scheduled \d+  retrying \d+  completed [\d,]+  dead \d+\n`), ""},
	{regexp.MustCompile(`in [\d.]+m?s, \d+ jobs/s`), "in TOOK, N jobs/s"},
	{regexp.MustCompile(`miniredis [\d.]+`), "miniredis VERSION"},
	{regexp.MustCompile(`miniredis,`), "miniredis VERSION,"}, // a test binary need not know
}

func TestDevGolden(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	out.WriteString("$ penstock dev --jobs 100\n")
	opt := devTestOptions(100)
	run := func(opt devOptions) {
		t.Helper()
		a := &app{out: &out, err: &out, env: variables{}, timeout: 10 * time.Second}
		if err := a.dev(t.Context(), opt); err != nil {
			t.Error(err)
		}
	}
	run(opt)
	opt.embedded = true
	out.WriteString("\n$ penstock dev --jobs 100 --embedded\n")
	run(opt)
	text := out.String()
	for _, u := range devUnstable {
		text = u.pattern.ReplaceAllString(text, u.text)
	}
	compareGolden(t, "dev", text)
}

// TestDevScreen draws on what is no terminal: 80 columns and 24 lines are assumed.
func TestDevScreen(t *testing.T) {
	t.Parallel()
	file, err := os.Create(t.TempDir() + "/terminal")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var out bytes.Buffer
	d := &devScreen{s: &devSession{opt: devOptions{jobs: 100}}, w: &out, live: file, begun: time.Now()}
	kinds := make([]devTally, len(devKinds))
	kinds[0] = devTally{Published: 60, Completed: 50}
	d.draw(d.frame(kinds, stream.Depths{Waiting: 10}, nil))
	first := out.String()
	if !strings.HasPrefix(first, hideCursor) || strings.Contains(first, "A\r") || !strings.Contains(first, "settled 50 of 100") {
		t.Errorf("first frame %q", first)
	}
	if n := strings.Count(first, "\n"); n != d.drawn || n > 23 {
		t.Errorf("%d lines, %d known of", n, d.drawn)
	}
	for line := range strings.Lines(first) {
		if text := strings.NewReplacer(hideCursor, "", clearLine, "", clearBelow, "", "\n", "").Replace(line); len([]rune(text)) > 79 {
			t.Errorf("%q would wrap", text)
		}
	}
	out.Reset()
	d.draw([]string{strings.Repeat("x", 200)})
	if want := hideCursor + "\x1b[15A\r" + strings.Repeat("x", 78) + "…" + clearLine + "\n" + clearBelow; out.String() != want {
		t.Errorf("second frame %q, want %q", out.String(), want)
	}
	out.Reset()
	d.draw(make([]string, 50))
	if n := strings.Count(out.String(), "\n"); n != 23 {
		t.Errorf("%d lines on a terminal of 24", n)
	}
	out.Reset()
	d.close()
	if out.String() != showCursor {
		t.Errorf("at the end %q", out.String())
	}
}

// TestDevFits: a terminal has 80 columns and 24 lines, unless somebody has made it larger.
func TestDevFits(t *testing.T) {
	t.Parallel()
	kinds := make([]devTally, len(devKinds))
	for i := range kinds {
		kinds[i] = devTally{Published: 9_999_999, Completed: 9_999_999, Retried: 999_999, Failed: 99_999}
	}
	lines := kindLines(kinds)
	for _, line := range lines {
		if n := len([]rune(line)); n > 79 {
			t.Errorf("%d columns: %q", n, line)
		}
	}
	if header, rest := 7, 3; len(lines)+header+rest > 23 {
		t.Errorf("%d lines", len(lines)+header+rest)
	}
}
