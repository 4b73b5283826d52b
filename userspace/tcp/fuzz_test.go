// SPDX-License-Identifier: Apache-2.0

package tcp

import (
	"encoding/binary"
	"testing"
	"time"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

// FuzzConn reads its input as a list of things that happen to one connection: segments near the window, calls of the
// application, time that passes. Nothing of it may break an invariant, and what is delivered is what the bytes'
// places say.
func FuzzConn(f *testing.F) {
	f.Add(byte(0), []byte{0, 0, 0, 0, 0, 0, 0, 0, 10, 1, 5, 200, 0, 0, 0, 0, 0, 10})
	f.Add(byte(1), []byte{4, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0, 7, 8, 9})
	f.Add(byte(2), []byte{0, 0x11, 0, 9, 0, 0, 1, 1, 90, 0, 0x10, 0, 0, 0, 0, 1, 1, 9, 6, 6, 6, 6, 6, 6})
	f.Add(byte(3), []byte{4, 255, 255, 0, 0x10, 0, 0, 0, 100, 0, 0, 0, 3, 0, 0x10, 0, 0, 0, 200, 0, 0, 0, 9, 6})
	f.Add(byte(3), []byte{4, 255, 8, 3, 100, 8, 3, 50, 6, 8, 3, 25})
	f.Fuzz(func(t *testing.T, kind byte, in []byte) {
		cfg := DefaultConfig()
		cfg.RecvBuffer, cfg.SendBuffer = 8192, 8192
		cfg.Pool = NewPool(6)
		hs := Handshake{ISS: 0xffffff00, IRS: 0xfffffff0, MSS: 700, RcvWnd: 8000,
			SACK: kind&1 != 0, Timestamps: kind&2 != 0, SndWScale: kind >> 2 & 3, RcvWScale: kind >> 4 & 3}
		var c Conn
		now := Time(time.Second)
		c.Open(cfg, hs, now)
		first := c.rcvNxt
		delivered := 0
		take := func() byte { // one byte of input
			if len(in) == 0 {
				return 0
			}
			b := in[0]
			in = in[1:]
			return b
		}
		check := func() {
			if err := c.invariants(); err != nil {
				t.Fatal(err)
			}
		}
		var buf [8192]byte
		for steps := 0; len(in) > 0 && steps < 500; steps++ {
			switch take() % 12 {
			default:
				var raw [9]byte
				for i := range raw {
					raw[i] = take()
				}
				s := wire.Segment{Flags: wire.Flags(raw[0]), WScale: -1, Window: binary.BigEndian.Uint16(raw[6:]) >> 3}
				if raw[0]&0xe0 != 0 { // mostly honest
					s.Flags = wire.ACK | s.Flags&wire.FIN
				}
				s.Seq = uint32(c.rcvNxt.Add(int(int16(binary.BigEndian.Uint16(raw[1:]))) >> 2))
				s.Ack = uint32(c.sndUna.Add(int(int16(binary.BigEndian.Uint16(raw[3:]))) >> 3))
				n := int(raw[8]) * 8
				s.PayloadLen = n
				s.Payload = make([]byte, n)
				for i := range s.Payload {
					s.Payload[i] = byte(s.Seq + uint32(i) - uint32(first))
				}
				if hs.Timestamps {
					s.Timestamps, s.TSVal, s.TSEcr = true, now.tick()-uint32(raw[5]>>6), uint32(raw[5])
				}
				for i := range raw[5] & 3 {
					left := c.sndUna.Add(int(take()) * 8)
					s.SACK[i] = wire.SACKBlock{Left: uint32(left), Right: uint32(left.Add(int(take()) * 8))}
					s.NSACK++
				}
				c.Input(&s, now)
			case 4:
				c.Write(buf[:int(take())*32])
			case 5:
				b := buf[:int(take())*32]
				n := c.Read(b)
				for i, x := range b[:n] {
					if x != byte(delivered+i) {
						t.Fatalf("byte %d is %d", delivered+i, x)
					}
				}
				clear(b)
				delivered += n
			case 6:
				if at := c.Deadline(); at != Never {
					now = max(now, at)
					c.Tick(now)
				}
			case 7:
				now = now.Add(time.Duration(take()) * time.Millisecond)
			case 8:
				switch take() % 8 {
				case 0:
					c.CloseWrite()
				case 1:
					c.Close(now)
				case 2:
					c.SetNoDelay(take()&1 == 0)
				case 3:
					c.LowerMSS(int(take())*4, now)
				case 4:
					c.SetKeepAlive(KeepAlive{Enable: true, Idle: time.Duration(take()) * time.Second, Interval: time.Second, Count: 3}, now)
				case 5:
					c.SetUserTimeout(time.Duration(take()) * time.Second)
				case 6:
					if c.Linger() && c.State() == StateClosed {
						t.Fatal("a connection that is over lingers")
					}
				case 7:
					if take()&7 == 0 {
						c.CloseRead()
					}
				}
			}
			check()
			var out wire.Segment
			for n := 0; c.Output(&out, now); n++ {
				c.CopyPayload(make([]byte, out.PayloadLen), &out)
				check()
				if out.PayloadLen > c.Info().MSS {
					t.Fatalf("a segment of %d bytes, MSS %d", out.PayloadLen, c.Info().MSS)
				}
				if n > 1000 {
					t.Fatal("Output does not end")
				}
			}
		}
		c.Abort()
		check()
		if n := cfg.Pool.InUse(); n != 0 {
			t.Fatalf("%d chunks were not given back", n)
		}
	})
}
