"""One step of layer alignment in PyTorch: every student layer on the teacher's input, L2 norms to the teacher's mixer output and next state, each
layer with its own clipping and fused AdamW. The student's kinds are those of its folder; --kind makes all layers one kind, as the stage does."""
import sys

import torch

from torch_models import Model, arguments, autocast, measure, read_shapes


def main():
    kind = None
    if "--kind" in sys.argv:
        at = sys.argv.index("--kind")
        kind = sys.argv[at + 1]
        del sys.argv[at:at + 2]
    a = arguments(__doc__)
    c, kinds = read_shapes(a.student)
    if kind:
        kinds = [kind] * c["L"]
    teacher, student = Model(c, ["attention"] * c["L"]).eval(), Model(c, kinds)
    optimisers = [torch.optim.AdamW(layer.parameters(), lr=1e-5, weight_decay=0, fused=True) for layer in student.layers]
    ids = torch.randint(c["V"], (a.rows, a.length))

    def step():
        with torch.no_grad(), autocast(a):
            hidden, mixed = teacher.states(ids)
        for i, layer in enumerate(student.layers):
            with autocast(a):
                y, m = layer(hidden[i])
            loss = (y.float() - hidden[i + 1].float()).norm(dim=-1).mean() + (m.float() - mixed[i].float()).norm(dim=-1).mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
            optimisers[i].step()
            optimisers[i].zero_grad(set_to_none=False)

    measure(a, step, work="align", kind=kind or "as in the folder")


if __name__ == "__main__":
    main()
