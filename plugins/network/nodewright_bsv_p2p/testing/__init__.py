"""What tests and benchmarks need of the other side: a real SV Node as a child process."""
