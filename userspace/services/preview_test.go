package services

import (
	"context"
	"math"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/bpf"
)

func TestPreview(t *testing.T) {
	if os.Getenv("PREVIEW") == "" {
		t.Skip()
	}
	c := &fakeCounters{}
	st := NewStatus(c)
	c.reasons[bpf.PassNoService] = 48213
	c.reasons[bpf.PassNotTCP] = 9120
	c.reasons[bpf.RedirectSegment] = 120394
	c.reasons[bpf.RedirectOpened] = 20394
	c.reasons[bpf.TxSynAck] = 91203941
	c.reasons[bpf.DropBadCookie] = 7012
	c.engine.Opened = 20390
	c.engine.SegmentsIn = 140788
	c.engine.SegmentsOut = 150233
	c.engine.BytesIn = 40120391
	c.engine.BytesOut = 9140120391
	c.engine.PureAcksOut = 2012
	step := func(i int) {
		c.set(func(c *fakeCounters) {
			f := 800.0
			if i > 25 && i < 50 {
				f = 1.24e6 * math.Min(1, float64(i-25)/4)
			}
			c.reasons[bpf.TxSynAck] += uint64(f * (0.95 + 0.1*rand.Float64()))
			c.reasons[bpf.RedirectOpened] += uint64(700 + rand.IntN(140))
			c.reasons[bpf.DropBadCookie] += uint64(rand.IntN(12) * (i % 3))
			c.engine.Open = 300 + 40*int(math.Sin(float64(i)/9)*3) + rand.IntN(20)
		})
	}
	for i := range 60 {
		step(i)
		st.sample()
		st.last.Time = st.last.Time.Add(-time.Second)
	}
	go st.Run(context.Background())
	go func() {
		for i := 0; ; i++ {
			time.Sleep(time.Second)
			step(i)
		}
	}()
	for i, kind := range []string{"xdp", "v6", "plain"} {
		inner, err := net.Listen("tcp", []string{"127.0.0.1:18180", "127.0.0.1:18181", "127.0.0.1:18182"}[i])
		if err != nil {
			t.Fatal(err)
		}
		l := &xdpListener{Listener: inner, handshake: linuxHandshake(), info: linuxInfo()}
		l.handshake.ClientISN = 2718281828
		l.info.BytesIn = 481
		var ln net.Listener = l
		switch kind {
		case "v6":
			l.handshake.Remote = netip.MustParseAddrPort("[2001:db8:1234:5678:9abc:def0:1234:5678]:51234")
			l.handshake.Local = netip.MustParseAddrPort("[2001:db8::1]:8080")
			l.handshake.ClientWScale, l.handshake.ServerWScale = -1, -1
			l.handshake.HasDuration, l.handshake.Timestamps, l.handshake.SACK = false, false, false
		case "plain":
			ln = inner
		}
		env := Env{Status: st, Place: func() Place { return Place{"eth0", "native"} }}
		s, _ := New("http", env)
		go s.Serve(ln)
	}
	time.Sleep(15 * time.Minute)
}
