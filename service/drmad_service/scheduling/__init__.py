"""Claims jobs, places replicas on Ray and drives every job to its end."""
