// SPDX-License-Identifier: Apache-2.0

package services

// newEcho sends back what it receives. At the client's FIN all of it is on the way; then comes ours.
func newEcho(env Env) Service {
	return newStream(env, func(c *client) error {
		if err := c.receive(c.write); err != nil {
			return err
		}
		return c.closeWrite()
	})
}
