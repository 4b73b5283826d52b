// SPDX-License-Identifier: Apache-2.0

package userspace

import (
	"net"
	"time"

	"github.com/xdptcp/xdptcp/userspace/tcp"
)

// The methods that *net.TCPConn has beyond net.Conn, under the same names and with the same meaning. All of them fail with
// net.ErrClosed after Close.

// SetNoDelay with false turns on Nagle's algorithm, which is off by default.
func (c *Conn) SetNoDelay(noDelay bool) error {
	return c.do("set", func() { c.tcp.SetNoDelay(noDelay) })
}

// SetKeepAlive turns on or off that a peer from which nothing comes is asked whether it is still there; without an answer, the
// connection ends with ETIMEDOUT. It is off by default (RFC 9293, 3.8.4), and on, asks after two hours, unless
// SetKeepAlivePeriod or SetKeepAliveConfig said something else.
func (c *Conn) SetKeepAlive(on bool) error {
	return c.setKeepAlive(func(k *tcp.KeepAlive) { k.Enable = on })
}

// SetKeepAlivePeriod sets how long nothing must have come before the peer is asked. It does not turn keep-alive on.
func (c *Conn) SetKeepAlivePeriod(d time.Duration) error {
	return c.setKeepAlive(func(k *tcp.KeepAlive) { k.Idle = d })
}

// SetKeepAliveConfig sets all about keep-alive. A field that is zero stands for net.KeepAliveConfig's default (15 s, 15 s, 9), a
// negative one for what was set before.
func (c *Conn) SetKeepAliveConfig(config net.KeepAliveConfig) error {
	return c.setKeepAlive(func(k *tcp.KeepAlive) {
		k.Enable = config.Enable
		k.Idle = choose(config.Idle, 15*time.Second, k.Idle)
		k.Interval = choose(config.Interval, 15*time.Second, k.Interval)
		k.Count = choose(config.Count, 9, k.Count)
	})
}

// choose is net.KeepAliveConfig's rule for each of its fields.
func choose[T int | time.Duration](wanted, ifZero, ifNegative T) T {
	switch {
	case wanted == 0:
		return ifZero
	case wanted < 0:
		return ifNegative
	default:
		return wanted
	}
}

func (c *Conn) setKeepAlive(change func(*tcp.KeepAlive)) error {
	return c.do("set", func() {
		k := c.tcp.KeepAlive()
		change(&k)
		c.tcp.SetKeepAlive(k, c.shard.engine.clock.now())
	})
}

// SetUserTimeout sets how long what was written may wait for its acknowledgment, or for a window, before the connection ends with
// ETIMEDOUT: TCP_USER_TIMEOUT of Linux, the user time-out of RFC 9293, 3.8.3. It takes the place of the number of
// retransmissions that are tried, and of a keep-alive's count. 0: as many as tcp.Config says.
func (c *Conn) SetUserTimeout(d time.Duration) error {
	return c.do("set", func() { c.tcp.SetUserTimeout(d) })
}

// Info is a snapshot of a connection, as TCP_INFO is of a socket.
type Info struct {
	tcp.Info
	Handshake Handshake
}

// Info takes a snapshot. It works after Close too.
func (c *Conn) Info() Info {
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	return Info{c.tcp.Info(), c.Handshake()}
}
