# SPDX-License-Identifier: Apache-2.0
"""Makes Blender's materials, which are graphs of nodes, from their parameters. Needs bpy."""

from collections.abc import Mapping
from typing import Any, Final

import bpy
import numpy as np
from numpy.typing import NDArray

from tools.path_tracing.materials import BLOOD, PATTERN_LENGTH, Cloth, Colour, Smear, Surface
from tools.path_tracing.noise import MAP_SIDE, Map
from tools.path_tracing.tissue import Tissue
from tools.path_tracing.tissue_relief import HALF_SIDE_CM

_BLOOD_ROUGHNESS: Final = 0.12
"""Blood is wet."""

_CLOTH: Final[Colour] = (0.8, 0.78, 0.75)
_STAIN: Final[Colour] = (0.35, 0.02, 0.02)

_SCATTERING_RADII: Final = (1.0, 0.25, 0.15)
"""Relative distance that red, green and blue light travel below the surface of tissue."""

_SCATTERING_SCALE_CM: Final = 0.1
"""That distance for red light in vessels and strands."""

Socket = Any
"""Output of a node; bpy has no types."""


class Graph:
    """
    The nodes of a material around a Principled BSDF.

    :param name: name of the material.
    """

    def __init__(self, name: str) -> None:
        self.material = bpy.data.materials.new(name)
        self._nodes = self.material.node_tree.nodes
        self._links = self.material.node_tree.links
        self._shader = next(node for node in self._nodes if node.type == 'BSDF_PRINCIPLED')

    def node(self, kind: str, inputs: Mapping[Any, Any], **settings: Any) -> Any:
        """
        Add a node.

        :param kind: its type without the prefix ShaderNode.
        :param inputs: outputs of other nodes, or values, by name or index of the input.
        :param settings: attributes of the node.
        :return: the node.
        """
        node = self._nodes.new('ShaderNode' + kind)
        for name, value in settings.items():
            setattr(node, name, value)
        for key, value in inputs.items():
            self._set(node.inputs[key], value)
        return node

    def put(self, **inputs: Any) -> None:
        """
        Set inputs of the shader.

        :param inputs: outputs of nodes, or values, by name, with underscores as spaces.
        """
        for name, value in inputs.items():
            self._set(self._shader.inputs[name.replace('_', ' ')], value)

    def noise(
        self,
        scale: float,
        detail: float,
        roughness: float = 0.6,
        *,
        seed: float = 0.0,
        stretch: Colour = (1.0, 1.0, 1.0),
    ) -> Socket:
        """
        Add noise in the coordinates of the object.

        :param scale: its spatial frequency.
        :param detail: number of finer octaves.
        :param roughness: weight of the fine octaves.
        :param seed: where in the noise the object is.
        :param stretch: factors of the frequency along x, y and z.
        :return: 0 to 1, mostly near 0.5.
        """
        mapped = {'Location': (seed, seed * 1.7, seed * 0.3), 'Scale': stretch}
        mapping = self.node('Mapping', {'Vector': self.coordinates(), **mapped})
        settings = {'Scale': scale, 'Detail': detail, 'Roughness': roughness}
        return self.node('TexNoise', {'Vector': mapping.outputs[0], **settings}).outputs[0]

    def coordinates(self) -> Socket:
        """Return the coordinates of the object."""
        return self.node('TexCoord', {}).outputs['Object']

    def ramp(self, value: Socket, low: float, high: float) -> Socket:
        """Rise linearly from 0 at `low` to 1 at `high`."""
        inputs = {'Value': value, 'From Min': low, 'From Max': high}
        return self.node('MapRange', inputs).outputs[0]

    def mix(self, factor: Any, first: Any, second: Any) -> Socket:
        """Mix two numbers."""
        return self._mix(factor, first, second, data_type='FLOAT')

    def mix_colours(self, factor: Any, first: Any, second: Any, blend_type: str = 'MIX') -> Socket:
        """Mix two colours, or multiply them."""
        return self._mix(factor, first, second, data_type='RGBA', blend_type=blend_type)

    def math(self, operation: str, first: Socket, second: Socket) -> Socket:
        """Combine two numbers."""
        return self.node('Math', {0: first, 1: second}, operation=operation).outputs[0]

    def bump(
        self, height: Socket, strength: float, distance: float, normal: Socket | None = None
    ) -> Socket:
        """Tilt the normal by the slope of a height."""
        inputs = {'Height': height, 'Strength': strength, 'Distance': distance}
        if normal is not None:
            inputs['Normal'] = normal
        return self.node('Bump', inputs).outputs[0]

    def _mix(self, factor: Any, first: Any, second: Any, **settings: str) -> Socket:
        node = self.node('Mix', {}, **settings)
        enabled = [socket for socket in node.inputs if socket.enabled]
        for socket, value in zip(enabled, (factor, first, second)):
            self._set(socket, value)
        return next(socket for socket in node.outputs if socket.enabled)

    def _set(self, socket: Socket, value: Any) -> None:
        if hasattr(value, 'links'):
            self._links.new(value, socket)
        elif socket.type == 'RGBA':
            socket.default_value = (*value, 1.0)
        else:
            socket.default_value = value


def surface_material(surface: Surface) -> Any:
    """
    Make the material of a surface.

    :param surface: its parameters.
    :return: Blender's material.
    """
    graph = Graph('surface')
    wear = graph.noise(surface.wear_scale, 4, seed=surface.seed)
    worn = tuple(level * (1 - surface.wear) for level in surface.colour)
    colour = graph.mix_colours(graph.ramp(wear, 0.35, 0.7), surface.colour, worn)
    if surface.pattern is not None:
        pattern = _pattern_on(graph, surface.pattern)
        colour = graph.mix_colours(1.0, colour, pattern, 'MULTIPLY')
    normal = None
    if surface.brushed > 0:
        lines = graph.noise(14, 2, seed=surface.seed, stretch=surface.streaks)
        normal = graph.bump(lines, surface.brushed, 0.02)
        dark = graph.mix_colours(1.0, colour, (0.7, 0.7, 0.7), 'MULTIPLY')
        colour = graph.mix_colours(graph.ramp(lines, 0.3, 0.7), colour, dark)
    rougher = min(1.0, surface.roughness * 1.7)
    roughness = graph.mix(graph.ramp(wear, 0.3, 0.75), surface.roughness, rougher)
    metallic: Any = surface.metallic
    if surface.smear is not None:
        blood = _blood(graph, surface.smear, surface.seed)
        colour = graph.mix_colours(blood, colour, BLOOD)
        metallic = graph.mix(blood, metallic, 0.0)
        roughness = graph.mix(blood, roughness, _BLOOD_ROUGHNESS)
        normal = graph.bump(blood, 0.5, 0.03, normal)
    graph.put(Base_Color=colour, Metallic=metallic, Roughness=roughness)
    graph.put(Coat_Weight=surface.coat, Subsurface_Weight=surface.scattering)
    graph.put(Subsurface_Radius=_SCATTERING_RADII, Subsurface_Scale=_SCATTERING_SCALE_CM)
    if normal is not None:
        graph.put(Normal=normal)
    return graph.material


def _pattern_on(graph: Graph, pattern: NDArray[np.float32]) -> Socket:
    """Wrap an image of factors around a shaft."""
    pixels = np.ones((*pattern.shape, 4), np.float32)
    pixels[..., :3] = pattern[..., None]
    uv = graph.node('UVMap', {}).outputs[0]
    scale = (1 / PATTERN_LENGTH, 1.0, 1.0)
    mapping = graph.node('Mapping', {'Vector': uv, 'Scale': scale})
    return _texture(graph, _image(pixels), mapping.outputs[0]).outputs[0]


def _blood(graph: Graph, smear: Smear, seed: float) -> Socket:
    """Return 1 where blood is on a surface: smears, and drops in places."""
    noise = graph.noise(smear.noise_scale, 5, smear.noise_roughness, seed=seed + 9)
    smears = graph.ramp(noise, smear.threshold, smear.threshold + smear.width)
    if smear.drops_scale is None:
        return smears
    inputs = {'Vector': graph.coordinates(), 'Scale': smear.drops_scale}
    voronoi = graph.node('TexVoronoi', inputs)
    patches = graph.ramp(graph.noise(1.2, 2, seed=seed + 3), 0.5, 0.62)
    drops = graph.ramp(voronoi.outputs['Distance'], 0.28, 0.16)
    return graph.math('MAXIMUM', graph.math('MULTIPLY', patches, drops), smears)


def cloth_material(cloth: Cloth) -> Any:
    """
    Make the material of gauze.

    :param cloth: its parameters.
    :return: Blender's material.
    """
    graph = Graph('cloth')
    stain = graph.ramp(graph.noise(cloth.stain_scale, 4), cloth.stain_threshold, 0.7)
    graph.put(Base_Color=graph.mix_colours(stain, _CLOTH, _STAIN), Roughness=0.85)
    threads = graph.node('TexVoronoi', {'Vector': graph.coordinates(), 'Scale': 14})
    graph.put(Normal=graph.bump(threads.outputs['Distance'], 0.8, 0.05))
    return graph.material


def tissue_material(tissue: Tissue) -> Any:
    """
    Make the material of tissue: its maps, and liquid on it as a coat with its own normals.

    :param tissue: the tissue.
    :return: Blender's material.
    """
    graph, sheen = Graph('tissue'), tissue.sheen
    pixels = np.concatenate([tissue.colour, tissue.wetness[..., None]], 2)
    image = _image(pixels, is_colour=True)
    texture = _texture(graph, image)
    wetness = texture.outputs[1]
    graph.put(
        Base_Color=texture.outputs[0],
        Normal=_normals(graph, tissue.fine_cm),
        Roughness=graph.mix(wetness, *sheen.roughness),
        Specular_IOR_Level=sheen.specular,
        Coat_Weight=graph.mix(wetness, 0.0, sheen.coat),
        Coat_Roughness=sheen.coat_roughness,
        Coat_Normal=_normals(graph, tissue.liquid_cm),
        Subsurface_Weight=sheen.scattering,
        Subsurface_Radius=_SCATTERING_RADII,
        Subsurface_Scale=sheen.scattering_scale_cm,
    )
    return graph.material


def _normals(graph: Graph, height_cm: Map) -> Socket:
    """Return the normals of a height map."""
    slope_y, slope_x = np.gradient(height_cm, 2 * HALF_SIDE_CM / (MAP_SIDE - 1))
    normals = np.stack([-slope_x, -slope_y, np.ones_like(slope_x)], 2)
    pixels = np.ones((MAP_SIDE, MAP_SIDE, 4), np.float32)
    pixels[..., :3] = normals / np.linalg.norm(normals, axis=2, keepdims=True)
    return _texture(graph, _image(pixels)).outputs[0]


def _image(pixels: NDArray[np.float32], *, is_colour: bool = False) -> Any:
    """Make an image of (H, W, 4) numbers, or of sRGB colours with a number as fourth channel."""
    height, width = pixels.shape[:2]
    image = bpy.data.images.new('map', width, height, alpha=True, float_buffer=not is_colour)
    if is_colour:
        image.alpha_mode = 'CHANNEL_PACKED'
    else:
        image.colorspace_settings.name = 'Non-Color'
    image.pixels.foreach_set(np.ascontiguousarray(pixels, np.float32).ravel())
    image.update()
    image.pack()
    return image


def _texture(graph: Graph, image: Any, vector: Socket | None = None) -> Any:
    return graph.node('TexImage', {} if vector is None else {'Vector': vector}, image=image)


def label_material() -> Any:
    """
    Make a material that shines with the label of its object, for masks.

    :return: Blender's material.
    """
    material = bpy.data.materials.new('label')
    nodes, links = material.node_tree.nodes, material.node_tree.links
    nodes.clear()
    info, emission, output = (
        nodes.new('ShaderNode' + kind) for kind in ('ObjectInfo', 'Emission', 'OutputMaterial')
    )
    links.new(info.outputs['Object Index'], emission.inputs['Strength'])
    emission.inputs['Color'].default_value = (1, 1, 1, 1)
    links.new(emission.outputs[0], output.inputs[0])
    return material
