"""What every builder of the project shares: the cache of builds, the programs it runs, how it runs them."""
