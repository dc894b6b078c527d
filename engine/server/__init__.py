"""The engine as a service: one thread that computes, an HTTP API in front of it, a daemon around both."""
