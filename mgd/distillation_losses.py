"""The losses of the methods that MGD is held against; kept as `losses.py` keeps its own.

Every mean runs over valid pixels only, every value is finite, and an input without a valid pixel gives loss 0 with
gradient 0. All are computed in float32, whatever the inputs' precision. No gradient reaches the teacher's side.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def squared_probability_loss(student_logits: Tensor, target: Tensor, *, valid: Tensor, counted: Tensor) -> Tensor:
    """Consistency of the mean teacher: squared difference of the class probabilities, summed over the classes.

    The mean over the valid pixels, where those that do not count add 0 (French et al., BMVC 2020, section 3).

    Args:
        student_logits: (N,K,H,W). target: (N,K,H,W), the teacher's probabilities.
        valid, counted: (N,H,W) bool; what is counted lies in what is valid.
    """
    squared = (student_logits.float().softmax(dim=1) - target.float()).square().sum(dim=1)
    return (squared * counted).sum() / valid.sum().clamp(min=1)


def pixel_kl_loss(student_logits: Tensor, teacher_logits: Tensor, *, temperature: float = 1.0, valid: Tensor) -> Tensor:
    """Knowledge distillation pixel by pixel: T^2 KL(softmax(z_teacher / T) || softmax(z_student / T)).

    The mean over the valid pixels (Hinton et al., 2015, section 2: T^2 keeps the gradient's scale for every T).

    Args:
        student_logits, teacher_logits: (N,K,H,W). valid: (N,H,W) bool.
    """
    student = (student_logits.float() / temperature).log_softmax(dim=1)
    teacher = (teacher_logits.detach().float() / temperature).log_softmax(dim=1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * (divergence * valid).sum() / valid.sum().clamp(min=1)


def channel_wise_loss(student: Tensor, teacher: Tensor, *, temperature: float = 4.0, valid: Tensor) -> Tensor:
    """Channel-wise distillation: T^2 / C times the sum over channels of the KL between softmaxes over *positions*.

    Each channel's map becomes a distribution over the valid positions of its image; the mean over images (Shu et al.,
    ICCV 2021, equations 3 and 4). While the two are near each other it is about half the variance over positions of
    their difference, whatever the temperature is.

    Args:
        student, teacher: (N,C,h,w), logits or features. valid: (N,H,W) bool, any H and W: a position is valid where
            any of its pixels is.
    """
    seen = F.adaptive_max_pool2d(valid.float()[:, None], student.shape[-2:]).flatten(2) > 0
    student_log, teacher_log = (_position_log_softmax(x, seen, temperature) for x in (student, teacher.detach()))
    divergence = (teacher_log.exp() * (teacher_log - student_log) * seen).sum(dim=(1, 2))
    return temperature**2 * divergence.mean() / student.shape[1]


def _position_log_softmax(x: Tensor, seen: Tensor, temperature: float) -> Tensor:
    """(N,C,h,w) -> (N,C,h*w): log-probabilities over the seen positions; anything finite elsewhere."""
    scaled = x.float().flatten(2) / temperature
    lowest = torch.finfo(torch.float32).min / 2  # not -inf, which is NaN where an image has no valid position
    return torch.where(seen, scaled, lowest).log_softmax(dim=2).clamp(min=lowest)
