"""The pipeline tab: one stream under two delivery strategies, with its state machine."""
