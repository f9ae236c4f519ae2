"""Any file of pairs: one table, or every fault in one report; splits and leaks."""
