"""What the tests stand on: raw peers, a real target, a real gateway, certificates."""
