"""The networks of bench/models.ts in PyTorch, at the same shapes, with weights of its own: what counts is the time.

build(name) gives a function and what makes one set of its arguments.
"""

import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self, width, heads, causal):
        super().__init__()
        self.heads, self.causal = heads, causal
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x):
        batch, tokens, width = x.shape

        def split(y):
            return y.view(batch, tokens, self.heads, -1).transpose(1, 2)

        q, k, v = split(self.q(x)), split(self.k(x)), split(self.v(x))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(batch, tokens, width))


class Layer(nn.Module):
    def __init__(self, width, heads, inner, decoder):
        super().__init__()
        self.decoder = decoder
        self.attention = Attention(width, heads, decoder)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x):
        if self.decoder:
            x = x + self.attention(self.norm1(x))
            return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Transformer(nn.Module):
    def __init__(self, vocabulary, decoder, layers=12, width=768, heads=12, inner=3072, tokens=128):
        super().__init__()
        self.decoder = decoder
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(tokens, width))
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(Layer(width, heads, inner, decoder) for _ in range(layers))

    def forward(self, ids):
        x = self.embedding(ids) + self.positions
        if not self.decoder:
            x = self.norm(x)
        for layer in self.layers:
            x = layer(x)
        return F.linear(self.norm(x)[:, -1:], self.embedding.weight) if self.decoder else x


class LlamaBlock(nn.Module):
    def __init__(self, width=4096, heads=32, inner=11008, tokens=128):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.q, self.k, self.v, self.out = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)
        half = width // heads // 2
        angles = torch.outer(torch.arange(tokens), 10000 ** (-torch.arange(half) / half))
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def rotate(self, x):
        low, high = x.chunk(2, -1)
        return torch.cat([low * self.cos - high * self.sin, high * self.cos + low * self.sin], -1)

    def forward(self, x):
        batch, tokens, width = x.shape

        def split(y):
            return y.view(batch, tokens, self.heads, -1).transpose(1, 2)

        first = self.norm1(x)
        q, k, v = split(self.q(first)), split(self.k(first)), split(self.v(first))
        y = F.scaled_dot_product_attention(self.rotate(q), self.rotate(k), v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, tokens, width))
        second = self.norm2(x)
        return x + self.down(F.silu(self.gate(second)) * self.up(second))


def image_network(name):
    import torchvision

    return getattr(torchvision.models, name)(weights=None)


# torchvision's networks differ from ONNX's of the same name in details: where a stride sits, an auxiliary head.
IMAGES = {
    "light_resnet50": "resnet50",
    "light_vgg19": "vgg19",
    "light_densenet121": "densenet121",
    "light_squeezenet": "squeezenet1_0",
    "light_bvlc_alexnet": "alexnet",
    "mobilenetv2-fp32-derived": "mobilenet_v2",
}


def build(name):
    if name in IMAGES:
        network = image_network(IMAGES[name])
        example = lambda: (torch.randn(1, 3, 224, 224, device="cuda"),)  # noqa: E731
    elif name == "bert-base":
        network = Transformer(30522, decoder=False)
        example = lambda: (torch.randint(0, 10, (1, 128), device="cuda"),)  # noqa: E731
    elif name == "gpt2-small":
        network = Transformer(50257, decoder=True)
        example = lambda: (torch.randint(0, 10, (1, 128), device="cuda"),)  # noqa: E731
    elif name == "llama-block-4096":
        network = LlamaBlock()
        example = lambda: (torch.randn(1, 128, 4096, device="cuda"),)  # noqa: E731
    else:
        raise ValueError(f"there is no {name} in PyTorch here")
    return network.eval().cuda(), example
