"""The moving average of the weights against torch's, which copies the first step as well."""

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from slowfast_mvit.optim.averaging import moving_average


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9999, 1.0])
def test_the_average_is_that_of_torch_to_the_bit(decay, dtype):
    model = torch.nn.Linear(5, 7, dtype=dtype)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))
    ours = moving_average(model, decay)

    for _ in range(4):
        with torch.no_grad():
            model.weight += torch.randn_like(model.weight)
        ours.update_parameters(model, torch.tensor(0.0))
        ours.update_parameters(model, torch.tensor(1.0))  # a skipped step
        theirs.update_parameters(model)

    assert torch.equal(ours.module.weight, theirs.module.weight)
    assert ours.n_averaged == theirs.n_averaged == 4
