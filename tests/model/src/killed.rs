//! A writer process that is killed at any moment, and what must be found afterwards.
