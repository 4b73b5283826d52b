// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"
	"testing"

	"github.com/xdptcp/xdptcp/userspace/wire"
)

func TestAFlowKeyHasTheBytesOfThePacketAndComesBackAsTheSameFlow(t *testing.T) {
	v4 := wire.Flow{
		Remote: netip.MustParseAddr("::ffff:198.18.1.2").As16(), Local: netip.MustParseAddr("::ffff:192.0.2.1").As16(),
		RemotePort: 0x1234, LocalPort: 0x5678,
	}
	v6 := wire.Flow{
		Remote: netip.MustParseAddr("2001:db8::1:2").As16(), Local: netip.MustParseAddr("2001:db8::1").As16(),
		RemotePort: 0x1234, LocalPort: 0x5678,
	}
	if got := fromFlow4(flow4(v4)); got != v4 {
		t.Errorf("IPv4: %v", got)
	}
	if got := fromFlow6(flow6(v6)); got != v6 {
		t.Errorf("IPv6: %v", got)
	}
	if k := flow4(v4); netPort(k.RemotePort) != 0x1234 || k.RemotePort == k.LocalPort {
		t.Errorf("ports: %x", k)
	}
}
