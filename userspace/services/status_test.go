// SPDX-License-Identifier: Apache-2.0

package services

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
)

// sampled runs f beside a running Status, in virtual time.
func sampled(t *testing.T, f func(*fakeCounters, *Status)) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeCounters{}
		status := NewStatus(src)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			status.Run(ctx)
			close(done)
		}()
		synctest.Wait()
		f(src, status)
		cancel()
		<-done
	})
}

// second lets the next sample be taken.
func second() {
	time.Sleep(time.Second)
	synctest.Wait()
}

func TestSamplesAreRatesPerSecond(t *testing.T) {
	sampled(t, func(src *fakeCounters, status *Status) {
		if n := len(status.Samples(60)); n != 0 {
			t.Fatalf("%d samples before the first second is over", n)
		}
		src.set(func(f *fakeCounters) {
			f.reasons[bpf.TxSynAck] = 100
			f.reasons[bpf.RedirectOpened] = 90
			f.reasons[bpf.DropBadCookie] = 3
			f.reasons[bpf.DropNoFlow] = 4
			f.reasons[bpf.PassNoService] = 1000
			f.engine.SynAcks, f.engine.BytesIn, f.engine.BytesOut, f.engine.Open = 2, 5, 6, 7
		})
		second()
		src.set(func(f *fakeCounters) { f.reasons[bpf.TxSynAck] = 150 })
		second()
		got := status.Samples(60)
		if len(got) != 2 {
			t.Fatalf("%d samples after two seconds", len(got))
		}
		want := Sample{Time: got[0].Time, SynAcks: 102, Completed: 90, Dropped: 7, BytesIn: 5, BytesOut: 6, Open: 7}
		if got[0] != want {
			t.Errorf("first sample %+v, want %+v", got[0], want)
		}
		if got[1].SynAcks != 50 || got[1].Completed != 0 || got[1].Open != 7 {
			t.Errorf("second sample %+v, want 50 SYNs and nothing else new", got[1])
		}
	})
}

func TestTheLast120SamplesAreKept(t *testing.T) {
	sampled(t, func(src *fakeCounters, status *Status) {
		for i := range 200 {
			src.set(func(f *fakeCounters) { f.engine.Open = i })
			second()
		}
		got := status.Samples(1000)
		if len(got) != samplesKept || got[0].Open != 80 || got[samplesKept-1].Open != 199 {
			t.Errorf("%d samples from %d to %d, want 120 from 80 to 199", len(got), got[0].Open, got[len(got)-1].Open)
		}
		if got := status.Samples(3); len(got) != 3 || got[0].Open != 197 {
			t.Errorf("of the last three: %+v", got)
		}
	})
}

func TestAFailedReadingIsAGapAndKeepsTheLastCounters(t *testing.T) {
	sampled(t, func(src *fakeCounters, status *Status) {
		src.set(func(f *fakeCounters) { f.reasons[bpf.TxSynAck] = 10 })
		second()
		src.set(func(f *fakeCounters) { f.err, f.engine.Opened = errGone, 5 })
		second()
		r := status.Read()
		if r.Err == nil || r.Reasons[bpf.TxSynAck] != 10 || r.Engine.Opened != 5 {
			t.Errorf("reading %+v, want the old reasons, the error and new engine counters", r)
		}
		src.set(func(f *fakeCounters) { f.err, f.reasons[bpf.TxSynAck] = nil, 1000 })
		second()
		if n := len(status.Samples(60)); n != 1 {
			t.Errorf("%d samples, want only the one from before the failure", n)
		}
		second()
		if got := status.Samples(60); len(got) != 2 || got[1].SynAcks != 0 {
			t.Errorf("samples %+v: the gap must not show as a peak", got)
		}
	})
}

func TestCountersThatStartAgainDoNotMakeAPeak(t *testing.T) {
	sampled(t, func(src *fakeCounters, status *Status) {
		src.set(func(f *fakeCounters) { f.reasons[bpf.TxSynAck] = 1000 })
		second()
		src.set(func(f *fakeCounters) { f.reasons[bpf.TxSynAck] = 10 })
		second()
		if got := status.Samples(1)[0].SynAcks; got != 0 {
			t.Errorf("rate %v after a reset", got)
		}
	})
}

func TestRequestsDoNotReadTheCountersEachTime(t *testing.T) {
	sampled(t, func(src *fakeCounters, status *Status) {
		for range 1000 {
			status.Read()
			time.Sleep(10 * time.Millisecond)
		}
		src.set(func(f *fakeCounters) {
			if f.reads > 12 {
				t.Errorf("counters read %d times in 10 seconds", f.reads)
			}
		})
	})
	src := &fakeCounters{}
	NewStatus(src).Read()
	if src.reads != 1 {
		t.Errorf("without Run: read %d times, want 1", src.reads)
	}
}
