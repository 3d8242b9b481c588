"""One step of end-to-end distillation in PyTorch: live teacher, KL over the vocabulary per token, clipping, fused AdamW."""
import torch
import torch.nn.functional as F

from torch_models import Model, arguments, autocast, measure, read_shapes


def main():
    a = arguments(__doc__)
    c, kinds = read_shapes(a.student)
    teacher, student = Model(c, ["attention"] * c["L"]).eval(), Model(c, kinds)
    optimiser = torch.optim.AdamW(student.parameters(), lr=1e-5, weight_decay=0, fused=True)
    ids = torch.randint(c["V"], (a.rows, a.length))

    def step():
        with autocast(a):
            with torch.no_grad():
                want = teacher(ids)
            got = student(ids)
        loss = F.kl_div(F.log_softmax(got.float(), -1).flatten(0, 1), F.log_softmax(want.float(), -1).flatten(0, 1), log_target=True,
                        reduction="batchmean")
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=False)

    measure(a, step, work="distill", kinds="".join({"attention": "a", "mla": "l", "mamba2": "m"}[k] for k in kinds))


if __name__ == "__main__":
    main()
