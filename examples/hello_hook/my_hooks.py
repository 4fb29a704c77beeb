"""A hook of your own, before anything is packaged."""

from hookline import HookBase


class HelloHook(HookBase):
    """Says hello every ``period`` iterations.

    Args:
        period: How often.
    """

    def __init__(self, period: int = 100) -> None:
        self.period = period

    def after_step(self):
        if self.trainer.iter % self.period == 0:
            print(f"Hello at iteration {self.trainer.iter}!")
