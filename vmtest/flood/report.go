// SPDX-License-Identifier: Apache-2.0

package flood

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// A Report is what Run measured, and the form of `bench flood --json`. Fields are added, never renamed.
type Report struct {
	Family          string     `json:"family"` // ipv4, ipv6
	CPUs            int        `json:"cpus"`
	Kernel          string     `json:"kernel"`
	DurationSeconds float64    `json:"duration_seconds"` // of each measurement
	Rounds          int        `json:"rounds"`
	Answered        []Answered `json:"answered"`
	Legit           []Legit    `json:"legit"`
}

// Answered is what one CPU sends, answers and counts.
type Answered struct {
	Server       Server          `json:"server"`
	PerCPUSecond float64         `json:"answered_per_cpu_second"` // median of the rounds
	PerSecond    float64         `json:"answered_per_second"`     // the same, lower if the CPU was also somebody else's
	OfSwap       float64         `json:"of_swap"`                 // PerCPUSecond, over that of the swap
	Lost         uint64          `json:"lost"`                    // in all rounds
	Measured     []AnsweredRound `json:"rounds"`
}

// AnsweredRound is one round of Answered.
type AnsweredRound struct {
	Seconds      float64 `json:"seconds"`
	CPUSeconds   float64 `json:"cpu_seconds"` // of the thread that floods, and ksoftirqd
	PerCPUSecond float64 `json:"answered_per_cpu_second"`
	PerSecond    float64 `json:"answered_per_second"`
	Fate         Fate    `json:"flood"`
}

// Fate is what became of the SYNs that were sent. Of a server that keeps none and sends none twice, sent is
// the sum of all others.
type Fate struct {
	Sent     uint64 `json:"sent"`
	Answered uint64 `json:"answered"`
	// Lost in the ring of the server's end of the pair, and of the client's.
	LostToServer uint64 `json:"lost_to_server"`
	LostToClient uint64 `json:"lost_to_client"`
	Strange      uint64 `json:"strange"`    // what came back was no answer
	Unanswered   int64  `json:"unanswered"` // the rest; below zero if the server repeats its answers
}

func (l ledger) fate() Fate {
	return Fate{
		Sent: l.sent, Answered: l.answered(), LostToServer: l.lostThere, LostToClient: l.lostBack, Strange: l.tally.Strange,
		Unanswered: int64(l.sent) - int64(l.answered()+l.lostThere+l.lostBack+l.tally.Strange),
	}
}

// Legit is what honest clients get during a flood.
type Legit struct {
	Server    Server       `json:"server"`
	Flood     Rate         `json:"flood"`                  // the rate that was asked for: "500k", "max"
	Sent      float64      `json:"sent_per_second"`        // the rate that it was; medians of the rounds, from here on
	Answered  float64      `json:"answered_per_second"`    //
	PerSecond float64      `json:"connections_per_second"` //
	P50       float64      `json:"p50_ms"`                 // from connect to the end of the answer
	P99       float64      `json:"p99_ms"`                 //
	CPU       CPUShares    `json:"cpu"`                    //
	Failed    int          `json:"failed"`                 // in all rounds: no connection, or one that broke
	Stuck     int          `json:"stuck"`                  // in all rounds: connected, then nothing until the time-out
	Measured  []LegitRound `json:"rounds"`
}

// CPUShares are in CPUs: 2 is all that two CPUs have. What the kernel does in softirq counts for whom it
// interrupts; most of the flood's is the generator's.
type CPUShares struct {
	Generator float64 `json:"generator"`
	Server    float64 `json:"server"`
	Clients   float64 `json:"clients"`
	Idle      float64 `json:"idle"`
}

// LegitRound is one round of Legit.
type LegitRound struct {
	Seconds           float64   `json:"seconds"`
	SentPerSecond     float64   `json:"sent_per_second"`
	AnsweredPerSecond float64   `json:"answered_per_second"`
	Flood             Fate      `json:"flood"`
	Connections       int       `json:"connections"`
	PerSecond         float64   `json:"connections_per_second"`
	P50               float64   `json:"p50_ms"`
	P99               float64   `json:"p99_ms"`
	Late              int       `json:"late"` // served, but after the end of the measurement
	Failed            int       `json:"failed"`
	Stuck             int       `json:"stuck"`
	Failure           string    `json:"failure,omitempty"` // an example
	CPU               CPUShares `json:"cpu"`
}

func (a *Answered) summarize(swap float64) {
	a.PerSecond = medianOf(a.Measured, func(r AnsweredRound) float64 { return r.PerSecond })
	a.PerCPUSecond = medianOf(a.Measured, func(r AnsweredRound) float64 { return r.PerCPUSecond })
	if a.OfSwap = 1; a.Server != Swap {
		a.OfSwap = a.PerCPUSecond / swap
	}
	for _, r := range a.Measured {
		a.Lost += r.Fate.LostToServer + r.Fate.LostToClient
	}
}

func (l *Legit) summarize() {
	of := func(f func(LegitRound) float64) float64 { return medianOf(l.Measured, f) }
	l.Sent = of(func(r LegitRound) float64 { return r.SentPerSecond })
	l.Answered = of(func(r LegitRound) float64 { return r.AnsweredPerSecond })
	l.PerSecond = of(func(r LegitRound) float64 { return r.PerSecond })
	l.P50 = of(func(r LegitRound) float64 { return r.P50 })
	l.P99 = of(func(r LegitRound) float64 { return r.P99 })
	l.CPU = CPUShares{
		Generator: of(func(r LegitRound) float64 { return r.CPU.Generator }),
		Server:    of(func(r LegitRound) float64 { return r.CPU.Server }),
		Clients:   of(func(r LegitRound) float64 { return r.CPU.Clients }),
		Idle:      of(func(r LegitRound) float64 { return r.CPU.Idle }),
	}
	for _, r := range l.Measured {
		l.Failed += r.Failed
		l.Stuck += r.Stuck
	}
}

func medianOf[T any](rounds []T, f func(T) float64) float64 {
	var v []float64
	for _, r := range rounds {
		v = append(v, f(r))
	}
	return median(v)
}

// WriteText writes the report as tables for people.
func (r *Report) WriteText(out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(out, "%s, %d CPUs, Linux %s; medians of %d rounds of %gs\n\n", r.Family, r.CPUs, r.Kernel, r.Rounds, r.DurationSeconds)
	fmt.Fprintln(out, "SYNs answered, everything on one CPU:")
	fmt.Fprintln(w, "\tper CPU-second\tof swap\tper second\tsent\tlost\tunanswered\t")
	for _, a := range r.Answered {
		var sent uint64
		var unanswered int64
		for _, m := range a.Measured {
			sent += m.Fate.Sent
			unanswered += m.Fate.Unanswered
		}
		fmt.Fprintf(w, "%s\t%.2f M\t%.0f %%\t%.2f M\t%d\t%d\t%d\t\n", a.Server, a.PerCPUSecond/1e6, 100*a.OfSwap, a.PerSecond/1e6, sent, a.Lost, unanswered)
	}
	if err := w.Flush(); err != nil || len(r.Legit) == 0 {
		return err
	}
	fmt.Fprintf(out, "\nConnections per second of honest clients during a flood, %d at a time (CPU in CPUs):\n", atOnce)
	fmt.Fprintln(w, "flood\tserver\tsent/s\tanswered/s\tconnections/s\tfailed\tstuck\tp50 ms\tp99 ms\tCPU generator\tserver\tclients\tidle\t")
	for _, l := range r.Legit {
		fmt.Fprintf(w, "%s\t%s\t%.0f\t%.0f\t%.0f\t%d\t%d\t%.1f\t%.1f\t%.2f\t%.2f\t%.2f\t%.2f\t\n", l.Flood, l.Server, l.Sent, l.Answered,
			l.PerSecond, l.Failed, l.Stuck, l.P50, l.P99, l.CPU.Generator, l.CPU.Server, l.CPU.Clients, l.CPU.Idle)
	}
	return w.Flush()
}
