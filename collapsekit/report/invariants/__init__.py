"""What has to agree within a file that collapsekit wrote: one module a kind, each a pure function from what was read to its
first contradiction, as a sentence without its end. Types are the models' own; the door (contract.checked) calls these."""
