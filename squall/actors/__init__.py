"""Everything that is alive on the cluster: Ray actors, Ray Train loops, and the engines they host."""
