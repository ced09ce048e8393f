"""Which blocks stay? One file a way of choosing those that go."""
