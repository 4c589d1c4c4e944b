"""NATS JetStream, external or embedded."""
