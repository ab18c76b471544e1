"""The paper's claims as commands: each samples, measures, and writes what a reader needs to check it.

A claim is a module in `claims.CLAIMS` with

- `TITLE` and `CLAIM`: what it is called, and what the paper says;
- `run(lab, output, progress) -> rows`: writes `output / "samples.jsonl"` and sums it up (`samples`);
- `answer(rows) -> str`: in a few words, whether the claim holds here, for the head of the page;
- `findings(rows) -> sentences`: what the numbers say;
- `plot(rows, path)`: the figure;
- where it needs more than the lab always has, `skipped(lab)`: why it cannot be measured, or None.

`lab` is where base models and preference pairs come from, `claims.reproduce` runs a claim and writes its table, and
`page` makes one page of all tables on disk.
"""
