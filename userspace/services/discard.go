// SPDX-License-Identifier: Apache-2.0

package services

// newDiscard reads until the client's FIN.
func newDiscard(env Env) Service {
	return newStream(env, func(c *client) error {
		return c.receive(func([]byte) error { return nil })
	})
}
